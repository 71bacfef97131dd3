//! How the loop is, for everybody to see at any time: a few atomic numbers that the cycle and the output set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::wake::Wake;
use super::witness::Witness;
use crate::telemetry::DropReason;

/// What the loop is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is sent, because something is missing.
    Waiting,
    /// Chunks are sent.
    Running,
    /// The robot was told to stay where it is, or would be if it were moving.
    Holding,
    /// Nothing is made and nothing is sent until the node is activated.
    Inactive,
    /// Nothing is sent until somebody enables the node.
    Disabled,
    /// The loop shows no sign of life; nothing is sent.
    Stalled,
    /// The device failed and is being made anew.
    Rebuilding,
    /// The device failed again; nothing is sent any more.
    Failed,
}

impl Phase {
    pub const ALL: [Phase; 8] = [
        Phase::Waiting,
        Phase::Running,
        Phase::Holding,
        Phase::Inactive,
        Phase::Disabled,
        Phase::Stalled,
        Phase::Rebuilding,
        Phase::Failed,
    ];

    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Running => "running",
            Phase::Holding => "holding",
            Phase::Inactive => "inactive",
            Phase::Disabled => "disabled",
            Phase::Stalled => "stalled",
            Phase::Rebuilding => "rebuilding",
            Phase::Failed => "failed",
        }
    }
}

/// What the loop is doing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopState {
    pub phase: Phase,
    /// What was last wrong, where something is.
    pub why: Option<DropReason>,
}

/// What the cycle, the output and those who watch share.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    watchdog: Duration,
    enabled: AtomicBool,
    /// Whether somebody has enabled or disabled it.
    switched: AtomicBool,
    /// Whether the loop is to do anything at all.
    active: AtomicBool,
    /// What the cycle has seen of it.
    followed_active: AtomicBool,
    /// Whether the cycle is making a chunk.
    busy: AtomicBool,
    /// Nanoseconds from the start to the cycle's last sign of life.
    beat_ns: AtomicU64,
    /// Nanoseconds from the start to the last chunk sent; 0 before the first.
    sent_ns: AtomicU64,
    /// How long publishing takes, as a running mean.
    publish_ns: AtomicU64,
    /// `[phase | reason + 1]`: one word, so that both are of the same moment.
    phase: AtomicU32,
}

impl Shared {
    /// A loop that sent nothing for so long, and makes nothing, is not running.
    const RECENT: Duration = Duration::from_secs(1);

    /// A loop that has shown no sign of life for `watchdog_ms` has stalled.
    pub fn new(watchdog_ms: f64, enabled: bool) -> Self {
        Self {
            started: Instant::now(),
            watchdog: Duration::try_from_secs_f64(watchdog_ms / 1e3).unwrap_or(Duration::MAX),
            enabled: AtomicBool::new(enabled),
            switched: AtomicBool::new(false),
            active: AtomicBool::new(true),
            followed_active: AtomicBool::new(true),
            busy: AtomicBool::new(false),
            beat_ns: AtomicU64::new(0),
            sent_ns: AtomicU64::new(0),
            publish_ns: AtomicU64::new(0),
            phase: AtomicU32::new(0),
        }
    }

    /// The cycle is alive.
    pub fn beat(&self) {
        self.beat_ns.store(self.now_ns(), Relaxed);
    }

    /// The cycle is making a chunk from now on, or not any more.
    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Relaxed);
    }

    /// Whether the cycle has shown no sign of life for too long.
    pub fn is_stalled(&self) -> bool {
        Duration::from_nanos(self.now_ns().saturating_sub(self.beat_ns.load(Relaxed))) > self.watchdog
    }

    /// Whether something that was begun then took longer than a healthy cycle.
    pub fn is_too_long_ago(&self, began: Instant) -> bool {
        began.elapsed() > self.watchdog
    }

    /// Whether chunks may leave.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed) && self.is_active()
    }

    /// Whether nothing leaves because nobody has ever said that it may. Who switches the node off knows that it is off.
    pub fn awaits_enabling(&self) -> bool {
        !self.enabled.load(Relaxed) && !self.switched.load(Relaxed)
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// The cycle has done what is due when the loop becomes active or inactive.
    pub(super) fn follow_active(&self, active: bool) {
        self.followed_active.store(active, Relaxed);
    }

    /// The loop is in this phase from now on.
    pub fn set(&self, phase: Phase, why: Option<DropReason>) {
        let why = why.map_or(0, |why| why as u32 + 1);
        self.phase.store((phase as u32) << 16 | why, Relaxed);
    }

    /// A chunk was sent, which took `publish` from the cycle's hand.
    pub fn sent(&self, publish: Duration) {
        self.sent_ns.store(self.now_ns().max(1), Relaxed);
        let mean = self.publish_ns.load(Relaxed);
        let new = u64::try_from(publish.as_nanos()).unwrap_or(u64::MAX);
        self.publish_ns.store(mean - mean / 16 + new / 16, Relaxed);
    }

    /// How long publishing takes.
    pub fn publish_ms(&self) -> f64 {
        self.publish_ns.load(Relaxed) as f64 / 1e6
    }

    /// The phase that was last set.
    pub fn phase(&self) -> Phase {
        Phase::ALL.get((self.phase.load(Relaxed) >> 16) as usize).copied().unwrap_or(Phase::Waiting)
    }

    pub fn state(&self) -> LoopState {
        let (word, phase) = (self.phase.load(Relaxed), self.phase());
        let why = (word & 0xffff).checked_sub(1).and_then(|why| DropReason::ALL.get(why as usize)).copied();
        let sent = Duration::from_nanos(self.now_ns().saturating_sub(self.sent_ns.load(Relaxed)));
        match phase {
            Phase::Failed | Phase::Rebuilding => LoopState { phase, why },
            _ if self.is_stalled() => LoopState { phase: Phase::Stalled, why: Some(DropReason::Stalled) },
            _ if !self.is_active() => LoopState { phase: Phase::Inactive, why: Some(DropReason::Disabled) },
            _ if !self.is_enabled() => LoopState { phase: Phase::Disabled, why: Some(DropReason::Disabled) },
            Phase::Running if sent > Self::RECENT && !self.busy.load(Relaxed) => {
                LoopState { phase: Phase::Waiting, why }
            }
            phase => LoopState { phase, why },
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Lets somebody enable and disable the node.
#[derive(Clone)]
pub struct Enable {
    pub(super) shared: Arc<Shared>,
    pub(super) wake: Wake,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl Enable {
    /// From now on chunks are sent, or not. When a moving robot's node is disabled, the robot is told to hold.
    pub fn set(&self, enabled: bool) {
        if let Some(witness) = &self.witness {
            witness.enabled(enabled);
        }
        self.shared.enabled.store(enabled, Relaxed);
        self.shared.switched.store(true, Relaxed);
        self.wake.wake();
    }

    pub fn is_enabled(&self) -> bool {
        self.shared.is_enabled()
    }

    /// From now on the loop works, or rests: nothing is computed then and nothing is sent. When a moving robot's node is
    /// deactivated, the robot is told to hold.
    pub fn set_active(&self, active: bool) {
        self.shared.active.store(active, Relaxed);
        self.wake.wake();
    }

    /// Whether the cycle has done what follows from [`Self::set_active`].
    pub fn has_followed(&self) -> bool {
        self.shared.followed_active.load(Relaxed) == self.shared.is_active()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn phases_and_reasons_come_back_as_they_were_set() {
        let shared = Shared::new(60_000.0, true);
        shared.beat();
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
        for why in [None, Some(DropReason::JointsMissing), Some(DropReason::Unsent)] {
            shared.set(Phase::Holding, why);
            assert_eq!(shared.state(), LoopState { phase: Phase::Holding, why });
        }
    }

    #[test]
    fn only_who_was_never_enabled_waits_for_it() {
        let enabled_at_start = Shared::new(60_000.0, true);
        assert!(!enabled_at_start.awaits_enabling());
        let shared = Arc::new(Shared::new(60_000.0, false));
        assert!(shared.awaits_enabling());
        let enable = Enable { shared: shared.clone(), wake: Wake::default(), witness: None };
        for on in [true, false] {
            enable.set(on);
            assert!(!shared.awaits_enabling());
        }
    }

    #[test]
    fn a_loop_without_a_sign_of_life_has_stalled_until_the_next() {
        let shared = Shared::new(10.0, true);
        shared.beat();
        shared.set(Phase::Holding, None);
        assert_eq!(shared.state().phase, Phase::Holding);
        sleep(Duration::from_millis(12));
        assert_eq!(shared.state().phase, Phase::Stalled);
        shared.beat();
        assert_eq!(shared.state().phase, Phase::Holding);
    }

    #[test]
    fn a_loop_that_has_sent_nothing_lately_is_running_only_while_it_makes_something() {
        let shared = Shared::new(60_000.0, true);
        shared.set(Phase::Running, None);
        shared.sent(Duration::from_millis(1));
        assert_eq!(shared.state().phase, Phase::Running);
        sleep(Shared::RECENT + Duration::from_millis(20));
        assert_eq!(shared.state().phase, Phase::Waiting);
        shared.set_busy(true);
        assert_eq!(shared.state().phase, Phase::Running);
    }
}
