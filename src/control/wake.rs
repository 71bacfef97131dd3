//! Waking a waiting thread without a lock: the control thread by its inputs, a consumer by a finished chunk.

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

/// Shared by one thread that waits and any number that wake it.
///
/// It knows the first thread that waited. Should another one wait later, or the first wake-up come before the first
/// wait, nothing breaks: the waiter looks again when its time is over.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<OnceLock<Thread>>);

impl Wake {
    /// Wakes the waiting thread, or makes its next wait return at once. Never blocks.
    pub fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }

    /// Waits until somebody wakes this thread or `timeout` has passed; may also return for no reason.
    pub fn wait(&self, timeout: Duration) {
        self.0.get_or_init(thread::current);
        thread::park_timeout(timeout);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_waiting_thread_is_woken_long_before_its_timeout() {
        let wake = Wake::default();
        let waiter = {
            let wake = wake.clone();
            thread::spawn(move || {
                let started = Instant::now();
                wake.wait(Duration::from_secs(20));
                started.elapsed()
            })
        };
        while wake.0.get().is_none() {
            thread::yield_now();
        }
        wake.wake();
        assert!(waiter.join().unwrap() < Duration::from_secs(10));
    }
}
