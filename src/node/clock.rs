//! The node's clock: this machine's, or with `use_sim_time` the one on `/clock`. Readable from the control thread
//! without a lock.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::control::Wake;
use crate::observe::messages::Stamp;

#[derive(Clone, Debug)]
pub enum Clock {
    System,
    Simulated(Arc<Simulated>),
}

/// What `/clock` says.
#[derive(Debug, Default)]
pub struct Simulated {
    /// Nanoseconds of its last message; 0 before the first.
    time: AtomicI64,
    /// Who waits for another time.
    waiting: Mutex<Wake>,
}

impl Clock {
    /// The clock that the parameter `use_sim_time` chooses.
    pub fn new(use_sim_time: bool) -> Self {
        if use_sim_time { Self::Simulated(Arc::default()) } else { Self::System }
    }

    pub fn now(&self) -> Stamp {
        match self {
            Self::System => stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            Self::Simulated(simulated) => Stamp(simulated.time.load(Relaxed)),
        }
    }

    pub fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated(_))
    }

    /// From now on a simulated clock wakes this thread, and no other, whenever it moves.
    pub fn wakes(&self, wake: &Wake) {
        if let Self::Simulated(simulated) = self {
            *simulated.waiting.lock().unwrap_or_else(PoisonError::into_inner) = wake.clone();
        }
    }

    /// Takes over the time that `node` has; called after each of its spins.
    pub fn update(&self, node: &r2r::Node) {
        if let Self::Simulated(simulated) = self
            && let Ok(mut clock) = node.get_ros_clock().lock()
            && let Ok(now) = clock.get_now()
        {
            let now = stamp(now).0;
            if simulated.time.swap(now, Relaxed) != now {
                simulated.waiting.lock().unwrap_or_else(PoisonError::into_inner).wake();
            }
        }
    }
}

fn stamp(since_epoch: Duration) -> Stamp {
    Stamp(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_runs_and_a_simulated_one_waits_for_its_first_message() {
        let (system, simulated) = (Clock::new(false), Clock::new(true));
        let first = system.now();
        assert!(first.0 > 1_700_000_000_000_000_000 && system.now() >= first);
        assert_eq!(simulated.now(), Stamp(0));
    }
}
