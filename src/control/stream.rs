//! The streams: positions at every tick, on a thread of their own, for robots that take no trajectories. Owned by whoever
//! sends them (`node`); `cli replay` repeats recorded ticks, tests tick by hand.
//!
//! The output leaves each motion in a mailbox when it sends the chunk; [`Follower`] says where the joints are by the clock.
//! Nothing here allocates or locks. Without leave to move (disabled, inactive) nothing is sent; when the loop has stalled, the
//! last position is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};
use rustix::time::clock_gettime;

use super::follower::Follower;
use super::mailbox::Receiver;
use super::motion::Motion;
use super::output::ChunkOutput;
use super::state::Shared;
use super::wake::Wake;
use super::witness::Witness;
use crate::observe::messages::Stamp;
use crate::telemetry::{Metrics, Stage};

/// The positions of one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick<'a> {
    /// By the clock of the messages' receivers.
    pub at: Stamp,
    /// The number of the chunk that is followed.
    pub sequence: u64,
    pub state: TickState,
    /// `[joints]`, in the order and the units of chunks.
    pub positions: &'a [f64],
}

/// What a tick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickState {
    /// The first after nothing was sent: where the robot is.
    First,
    /// Along the motion in force.
    Following,
    /// Where the tick before was: time stands still, or the motion is of another time.
    Holding,
    /// Where the tick before was, because the loop has stalled.
    Stalled,
}

impl TickState {
    pub const ALL: [TickState; 4] =
        [TickState::First, TickState::Following, TickState::Holding, TickState::Stalled];

    /// The name in recordings.
    pub fn name(self) -> &'static str {
        match self {
            TickState::First => "first",
            TickState::Following => "following",
            TickState::Holding => "holding",
            TickState::Stalled => "stalled",
        }
    }
}

/// Which time passes between ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// This machine's.
    Machine,
    /// The clock's that the node is given, which may stand still. Whoever moves it wakes the stream.
    Clock,
}

/// Where an edge gets the positions from.
pub struct Stream {
    motions: Receiver<Motion>,
    wake: Wake,
    follower: Follower,
    period_ns: i64,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl Stream {
    /// What follows the motions of `chunks` at so many ticks a second.
    pub(super) fn new(
        chunks: &mut ChunkOutput,
        stream_hz: f64,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (wake, period_ns) = (Wake::default(), (1e9 / stream_hz).round() as i64);
        let motions = chunks.feed_streams(&wake);
        let follower = Follower::new(motions.value(), period_ns);
        Self { motions, wake, follower, period_ns, shared, metrics, witness: None }
    }

    /// Wakes the thread that runs the stream.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// From tick to tick, in ns.
    pub fn period_ns(&self) -> i64 {
        self.period_ns
    }

    /// Ticks at its times until `stop`. `clock` is that of the messages' receivers.
    pub fn run(
        &mut self,
        clock: impl Fn() -> Stamp,
        pace: Pace,
        stop: &AtomicBool,
        mut send: impl FnMut(&Tick),
    ) {
        /// For who waits for a motion; the first wake-up of all may be missed.
        const PATIENCE: Duration = Duration::from_millis(5);
        let mut times = Times::new(self.period_ns);
        while !stop.load(Relaxed) {
            if !self.tick(clock(), &mut send) {
                times.forget();
                self.wake.wait(PATIENCE);
                continue;
            }
            let time = || if pace == Pace::Machine { machine_ns() } else { clock().0 };
            let due = times.next(time(), &self.metrics, pace);
            match pace {
                Pace::Machine => sleep_until(due),
                Pace::Clock => {
                    // A clock that was set back does not keep the ticks away.
                    while !stop.load(Relaxed) && (due - self.period_ns..due).contains(&clock().0) {
                        self.wake.wait(PATIENCE);
                    }
                }
            }
        }
    }

    /// Sends the positions of now, if any are to be sent. True if they were.
    pub fn tick(&mut self, now: Stamp, send: impl FnOnce(&Tick)) -> bool {
        let stalled = self.shared.is_stalled();
        self.tick_unless(stalled, now, send)
    }

    /// The positions of now, if any are to be sent. How long anything took by this machine's clock has no part in it.
    pub fn try_tick(&mut self, now: Stamp, send: impl FnOnce(&Tick)) -> bool {
        self.tick_unless(false, now, send)
    }

    fn tick_unless(&mut self, stalled: bool, now: Stamp, send: impl FnOnce(&Tick)) -> bool {
        let came = self.motions.take();
        if !self.shared.is_enabled() {
            self.follower.stop();
            return false;
        }
        let motion = self.motions.value();
        // A robot that nobody moves needs not be told to stay.
        if came && (self.follower.is_streaming() || !motion.hold) {
            self.follower.take(motion);
        }
        if !self.follower.is_streaming() {
            return false;
        }
        self.metrics.ticks.add_one();
        let stalled = stalled && !self.follower.is_first();
        let witness = self.witness.clone();
        let tick = self.go(now, stalled);
        send(&tick);
        if let Some(witness) = witness {
            witness.tick(&tick);
        }
        true
    }

    /// A recorded tick once more. `motion` is that of the chunk it followed.
    pub fn repeat(&mut self, motion: &Motion, at: Stamp, state: TickState) -> Tick<'_> {
        if state == TickState::First {
            self.follower.stop();
        }
        if state == TickState::First || self.follower.sequence() != motion.sequence {
            self.follower.take(motion);
        }
        self.go(at, state == TickState::Stalled)
    }

    fn go(&mut self, at: Stamp, stalled: bool) -> Tick<'_> {
        let follower = &mut self.follower;
        let state = if stalled { follower.hold() } else { follower.step(at) };
        Tick { at, sequence: follower.sequence(), state, positions: follower.positions() }
    }
}

/// When the ticks are due, in ns of the pace's clock.
struct Times {
    period_ns: i64,
    due: Option<i64>,
    /// When the last tick was done.
    last: Option<i64>,
}

impl Times {
    fn new(period_ns: i64) -> Self {
        Self { period_ns, due: None, last: None }
    }

    /// The next tick is the first one.
    fn forget(&mut self) {
        (self.due, self.last) = (None, None);
    }

    /// A tick is done now. When the next is due: as many periods after the first as there were ticks, but those that are
    /// past already are left out.
    fn next(&mut self, now: i64, metrics: &Metrics, pace: Pace) -> i64 {
        let ns = |ns: i64| Duration::from_nanos(ns.unsigned_abs());
        if pace == Pace::Machine {
            if let Some(due) = self.due {
                metrics.record(Stage::StreamLateness, ns((now - due).max(0)));
            }
            if let Some(last) = self.last {
                metrics.record(Stage::StreamJitter, ns(now - last - self.period_ns));
            }
        }
        let was_set_back = self.due.is_some_and(|due| now < due - self.period_ns);
        let due = self.due.filter(|_| !was_set_back).unwrap_or(now);
        let missed = (now - due).max(0) / self.period_ns;
        metrics.missed_ticks.add(missed.unsigned_abs());
        let next = due + (missed + 1) * self.period_ns;
        (self.due, self.last) = (Some(next), Some(now));
        next
    }
}

fn machine_ns() -> i64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    tv_sec * 1_000_000_000 + tv_nsec
}

fn sleep_until(ns: i64) {
    let time = Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
    // A signal may end it early.
    while clock_nanosleep_absolute(ClockId::Monotonic, &time)
        .is_err_and(|error| error == rustix::io::Errno::INTR)
    {}
}
