//! The way out: the newest chunk from the cycle, checked at the moment it leaves. Used by whoever sends chunks (the live
//! node's publishing thread, `cli replay`, tests), one thread only.
//!
//! Here, not in the cycle, because only here it is known what time it is when a chunk leaves and what left before it:
//! points whose time is past are cut off, the deadline is judged, the chunk is joined to what was really sent, and the
//! limits are checked on what comes of that. A refused chunk is counted; where the robot must not go on, it is told to
//! hold its measured position.
//!
//! The mailbox behind it is like those of the ways in: a consumer that sleeps finds the newest chunk, never a queue of
//! old ones, and the cycle never waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::deadline::Blame;
use super::guide::{Delays, Underway};
use super::join::{blend, jump};
use super::limits::{Before, Limits};
use super::mailbox::{Receiver, Sender, mailbox};
use super::motion::Motion;
use super::sent::Sent;
use super::state::{Phase, Shared};
use super::wake::Wake;
use super::witness::{Departure, Witness};
use crate::observe::messages::Stamp;
use crate::settings::{ChunkJoin, Interpolation, OnDeadlineMiss, Settings};
use crate::telemetry::{CycleResult, DropReason, Metrics, Stage};

/// Stamps that are further ahead of the clock than this are not of this clock, or of a time before it was set back.
pub(super) const CLOCK_TOLERANCE_MS: f64 = 100.0;

/// How far into the future a hold reaches: ros2_control's joint_trajectory_controller refuses a trajectory whose last point
/// is past when it comes, and would go on with the one before.
const HOLD_MS: f64 = 100.0;

/// The rules by which chunks leave.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Which change brought them; 0 are the first.
    pub number: u32,
    pub budget_ms: f64,
    pub on_deadline_miss: OnDeadlineMiss,
    pub join: ChunkJoin,
    pub interpolation: Interpolation,
    pub max_image_age_ms: f64,
    pub max_joint_age_ms: f64,
    pub limits: Limits,
}

impl Rules {
    pub fn new(settings: &Settings, limits: Limits) -> Self {
        Self {
            number: 0,
            budget_ms: settings.latency_budget_ms,
            on_deadline_miss: settings.on_deadline_miss,
            join: settings.chunk_join,
            interpolation: settings.interpolation,
            max_image_age_ms: settings.max_image_age_ms,
            max_joint_age_ms: settings.max_joint_age_ms,
            limits,
        }
    }
}

/// Where an edge gets the chunks from.
pub struct ChunkOutput {
    receiver: Receiver<Chunk>,
    wake: Wake,
    /// As somebody has set them last.
    rules: Receiver<Rules>,
    /// The chunk that is about to leave.
    leaving: Chunk,
    /// What it makes of the joints from now on.
    motion: Motion,
    sent: Sent,
    /// Where the streams get the motions from, if there are any.
    streams: Option<Sender<Motion>>,
    /// Where the cycle gets what was sent from.
    underway: Sender<Underway>,
    delays: Delays,
    /// Where the joints were to be one point before the first of the leaving chunk.
    before: Vec<f64>,
    blame: Blame,
    /// What made the leaving chunk late, if it is.
    late: Option<Stage>,
    /// Why what the cycle made does not leave as it is.
    refused: Option<DropReason>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

/// Why a chunk does not leave.
struct Refusal {
    reason: DropReason,
    /// Whether the robot is told to stay where it is.
    hold: bool,
}

/// The other ends of an output.
pub(super) struct OutputEnds {
    /// The cycle's.
    pub chunks: Sender<Chunk>,
    /// The cycle's too: what was sent.
    pub underway: Receiver<Underway>,
    /// Through which the rules change.
    pub rules: Sender<Rules>,
}

/// An output and its other ends; `room` is a chunk of the right size.
pub(super) fn output(
    room: &Chunk,
    rules: Rules,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
) -> (OutputEnds, ChunkOutput) {
    let wake = Wake::default();
    let (sender, receiver) = mailbox(room, &wake);
    let (rules_sender, rules) = mailbox(&rules, &wake);
    // Nobody waits for it.
    let (underway_sender, underway) = mailbox(&Underway::room(&Motion::room(room)), &Wake::default());
    let output = ChunkOutput {
        receiver,
        wake,
        rules,
        leaving: room.clone(),
        motion: Motion::room(room),
        sent: Sent::new(room),
        streams: None,
        underway: underway_sender,
        delays: Delays::default(),
        before: vec![0.0; room.joints],
        blame: Blame::default(),
        late: None,
        refused: None,
        shared,
        metrics,
        witness: None,
    };
    (OutputEnds { chunks: sender, underway, rules: rules_sender }, output)
}

impl ChunkOutput {
    /// Waits up to `timeout` for a chunk that has not been looked at. False if none came.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        // A chunk that comes just before the first wait wakes nobody, so no wait is long.
        const SLICE: Duration = Duration::from_millis(5);
        let started = Instant::now();
        while !self.receiver.is_full() {
            let Some(left) = timeout.checked_sub(started.elapsed()) else { return false };
            self.wake.wait(left.min(SLICE));
        }
        true
    }

    /// Sends the newest chunk, if there is one that may leave now, by the clock of the messages' receivers. True when
    /// something was sent: the chunk, and the motion that it makes.
    pub fn send<E>(
        &mut self,
        clock: impl Fn() -> Stamp,
        send: impl FnOnce(&Chunk, &Motion) -> Result<(), E>,
    ) -> Result<bool, E> {
        let now = clock();
        if !self.take(now, true) {
            return Ok(false);
        }
        if let Err(error) = send(&self.leaving, &self.motion) {
            self.metrics.dropped(DropReason::Unsent);
            self.refused = Some(DropReason::Unsent);
            self.tell(false, now);
            self.finished(CycleResult::Dropped(DropReason::Unsent), None);
            return Err(error);
        }
        self.left(now);
        Ok(true)
    }

    /// The motion that was sent last.
    pub fn motion(&self) -> &Motion {
        self.sent.motion()
    }

    /// From now on every motion that leaves goes to the other end as well.
    pub(super) fn feed_streams(&mut self, wake: &Wake) -> Receiver<Motion> {
        let (sender, receiver) = mailbox(&self.motion, wake);
        self.streams = Some(sender);
        receiver
    }

    /// The newest chunk, if there is one that may leave now; it counts as sent. How long anything took by this machine's
    /// clock has no part in it: the same inputs give the same chunks.
    pub fn try_recv(&mut self, now: Stamp) -> Option<Chunk> {
        if !self.take(now, false) {
            return None;
        }
        let chunk = self.leaving.clone();
        self.left(now);
        Some(chunk)
    }

    /// Takes what the cycle handed out and prepares it for leaving. `live` where the watchdog counts.
    fn take(&mut self, now: Stamp, live: bool) -> bool {
        if !self.receiver.take() {
            return false;
        }
        let Some(chunk) = self.receiver.held() else { return false };
        self.leaving.copy_from(chunk);
        self.rules.take();
        self.refused = None;
        if self.leaving.hold.is_none() {
            let delay_ms = now.ms_since(self.leaving.observation);
            self.delays.record(delay_ms);
            self.metrics.joins.delayed(delay_ms);
        }
        let leaves = self.may_leave(now, live);
        if leaves {
            let Rules { interpolation, limits, .. } = self.rules.value();
            self.sent.begin(&self.leaving, now, *interpolation, limits, &mut self.motion);
        } else {
            self.tell(false, now);
            self.tell_cycle();
        }
        leaves
    }

    /// Tells the cycle what was sent, and how long it took.
    fn tell_cycle(&mut self) {
        let underway = self.underway.buffer();
        underway.sent = self.sent.has_sent();
        underway.motion.copy_from(self.sent.motion());
        underway.before.copy_from(self.sent.before());
        underway.delay_ms = self.delays.expected_ms();
        self.underway.send();
    }

    fn may_leave(&mut self, now: Stamp, live: bool) -> bool {
        if let Some(reason) = self.leaving.hold {
            self.refused = Some(reason);
            return self.make_hold(reason, now);
        }
        match self.prepare(now, live) {
            Ok(()) => true,
            Err(Refusal { reason, hold }) => {
                self.metrics.dropped(reason);
                self.refused = Some(reason);
                self.finished(CycleResult::Dropped(reason), None);
                self.shared.set(if hold { Phase::Holding } else { Phase::Waiting }, Some(reason));
                hold && self.make_hold(reason, now)
            }
        }
    }

    /// Cuts, judges, joins and checks the chunk that is to leave.
    fn prepare(&mut self, now: Stamp, live: bool) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal { reason, hold: false });
        let late = self.is_late(now);
        let Self { leaving: chunk, rules, sent, before, shared, metrics, .. } = self;
        let rules = rules.value();
        if live && (shared.is_stalled() || shared.is_too_long_ago(chunk.made.began.1)) {
            return refuse(DropReason::Stalled);
        }
        if !shared.is_enabled() {
            return refuse(DropReason::Disabled);
        }
        let images = too_old(chunk.made.images, now, rules.max_image_age_ms, DropReason::ImagesStale);
        let joints = too_old(chunk.made.joints, now, rules.max_joint_age_ms, DropReason::JointsStale);
        if let Some(reason) = images.or(joints) {
            return refuse(reason);
        }
        match rules.on_deadline_miss {
            OnDeadlineMiss::Drop if late => return refuse(DropReason::Late),
            OnDeadlineMiss::Hold if late => return Err(Refusal { reason: DropReason::Late, hold: true }),
            _ => {}
        }
        chunk.first = chunk.first_at(now);
        if chunk.first >= chunk.horizon {
            return refuse(DropReason::Past);
        }
        let checked = match sent.in_force(now) {
            None => rules.limits.check(chunk, Before::Measured(&chunk.measured)),
            Some(sent) => {
                let interval_ns = (1e9 / chunk.control_hz).round() as i64;
                let time = Stamp(chunk.time_of(chunk.first).0.saturating_sub(interval_ns));
                for (joint, position) in before.iter_mut().enumerate() {
                    *position = sent.position_at(joint, time).unwrap_or(chunk.measured[joint]);
                }
                let jump = jump(chunk, sent, now);
                let led = chunk.used.guide.leads();
                if led && chunk.first > chunk.used.guide.delay {
                    metrics.joins.led_late.add_one();
                }
                let joined_jump = match rules.join {
                    ChunkJoin::Blend { blend_ms }
                    | ChunkJoin::Guided { blend_ms }
                    | ChunkJoin::Trained { blend_ms } => Some(blend_ms),
                    ChunkJoin::Auto { blend_ms } => led.then_some(blend_ms),
                    ChunkJoin::Replace => None,
                }
                .map_or(jump, |blend_ms| {
                    blend(chunk, sent, now, blend_ms);
                    self::jump(chunk, sent, now)
                });
                metrics.joins.joined(jump, joined_jump);
                rules.limits.check(chunk, Before::Sent(before))
            }
        };
        checked.map_err(|violation| {
            metrics.report("limits", &violation);
            Refusal { reason: violation.reason, hold: true }
        })
    }

    /// Whether the chunk has missed its deadline; counts it and says why.
    fn is_late(&mut self, now: Stamp) -> bool {
        let made = &mut self.leaving.made;
        made.parts.set(Stage::Publish, made.handed_out.elapsed());
        let late = now.ms_since(self.leaving.observation) > self.rules.value().budget_ms;
        self.late = late.then(|| self.blame.of(&made.parts));
        match self.late {
            Some(stage) => self.metrics.missed(stage),
            None => self.blame.in_time(&made.parts),
        }
        late
    }

    /// Makes the leaving chunk one that tells the robot to stay where it is. False when that needs not or cannot be
    /// sent: the robot does not move on account of this node, or nobody knows where it is.
    fn make_hold(&mut self, reason: DropReason, now: Stamp) -> bool {
        let moving = self.sent.in_force(now).is_some_and(|sent| !sent.is_hold());
        let stale = too_old(
            self.leaving.made.joints,
            now,
            self.rules.value().max_joint_age_ms,
            DropReason::JointsStale,
        );
        if !moving || stale.is_some() {
            return false;
        }
        let chunk = &mut self.leaving;
        chunk.hold = Some(reason);
        chunk.observation = now;
        let rows = chunk.actions.chunks_exact_mut(chunk.joints.max(1));
        let points = (HOLD_MS / 1e3 * chunk.control_hz).ceil() as usize + 1;
        (chunk.first, chunk.horizon) = (0, points.min(rows.len()));
        rows.take(points).for_each(|row| row.copy_from_slice(&chunk.measured));
        true
    }

    /// The leaving chunk has left.
    fn left(&mut self, now: Stamp) {
        self.tell(true, now);
        let chunk = &self.leaving;
        self.sent.set(chunk, &self.motion, now);
        if let Some(streams) = &mut self.streams {
            streams.buffer().copy_from(&self.motion);
            streams.send();
        }
        self.tell_cycle();
        let chunk = &self.leaving;
        if chunk.hold.is_some() {
            return;
        }
        let (began, began_at) = chunk.made.began;
        let (device, device_end) = chunk.made.device;
        let publish = chunk.made.handed_out.elapsed();
        self.metrics.record(Stage::Publish, publish);
        self.metrics.time(Stage::AfterDevice, device_end);
        if let Some(waited) = chunk.made.waited {
            self.metrics.record(Stage::Overhead, (waited + began_at.elapsed()).saturating_sub(device));
        }
        let age_ms = began.ms_since(chunk.observation) + began_at.elapsed().as_secs_f64() * 1e3;
        let age = self.metrics.age(age_ms);
        self.metrics.chunks.add_one();
        self.shared.sent(publish);
        self.shared.set(Phase::Running, None);
        self.finished(CycleResult::Chunk, Some(age));
    }

    /// Tells the witness, if there is one, what became of the leaving chunk.
    fn tell(&self, sent: bool, at: Stamp) {
        if let (Some(witness), Some(made)) = (&self.witness, self.receiver.held()) {
            let Self { leaving, motion, refused, .. } = self;
            let (refused, parameters) = (*refused, self.rules.value().number);
            witness.departure(&Departure { made, leaving, motion, sent, refused, parameters, at });
        }
    }

    /// Keeps what the leaving chunk's cycle came to.
    fn finished(&self, result: CycleResult, age: Option<Duration>) {
        let mut record = self.leaving.made.parts.record();
        (record.result, record.missed) = (result, self.late);
        if let Some(age) = age {
            record.set(Stage::END_TO_END, age);
        }
        self.metrics.cycle_finished(&record);
    }
}

/// Why what has this stamp must not become an action: it is too old, or not of this clock.
pub(super) fn too_old(stamp: Stamp, now: Stamp, max_ms: f64, stale: DropReason) -> Option<DropReason> {
    match now.ms_since(stamp) {
        age_ms if age_ms > max_ms => Some(stale),
        age_ms if age_ms < -CLOCK_TOLERANCE_MS => Some(DropReason::StampsAhead),
        _ => None,
    }
}
