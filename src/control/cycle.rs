//! The cycle: a look at the mailboxes, and when there is something new, `perceive` and `act`. Owned by the control thread;
//! nothing here allocates, locks or blocks, as long as the device works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::budget::StepChooser;
use super::chunk::Chunk;
use super::deadline::Parts;
use super::guide::{Lead, Led};
use super::inputs::{JointSample, Prompt};
use super::mailbox::{Receiver, Sender};
use super::model::Model;
use super::output::too_old;
use super::prompt::StateWriter;
use super::rebuild::Rebuild;
use super::state::{Phase, Shared};
use super::sync::{FrameSync, Look};
use super::wake::Wake;
use super::witness::Arrival;
use crate::device::DeviceError;
use crate::observe::messages::Stamp;
use crate::observe::{JointUnits, Normalizer, RelativeActions};
use crate::settings::Settings;
use crate::telemetry::{CycleRecord, DropReason, Metrics};

/// Longest sleep without a new message: how long a stop may go unnoticed.
const SLEEP: Duration = Duration::from_millis(20);
/// Shortest sleep before an act that is due soon.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing new to act on.
    Idle,
    /// What was new led to no chunk.
    Dropped(DropReason),
    /// A chunk was handed out.
    Chunk,
}

/// The control loop's state.
pub struct Cycle {
    pub(super) model: Model,
    pub(super) frames: FrameSync,
    pub(super) prompt: Receiver<Prompt>,
    /// Puts the state into the prompt, where the model has it there.
    pub(super) state_writer: Option<StateWriter>,
    pub(super) joints: Receiver<JointSample>,
    pub(super) units: JointUnits,
    /// `[joints]`: the joint state in the model's units.
    pub(super) model_joints: Vec<f64>,
    pub(super) normalizer: Normalizer,
    pub(super) relative: RelativeActions,
    pub(super) chunks: Sender<Chunk>,
    /// What leads them.
    pub(super) led: Led,
    pub(super) seed: u64,
    pub(super) sequence: u64,
    pub(super) timing: Timing,
    /// Other times that somebody has set.
    pub(super) tuning: Receiver<Timing>,
    pub(super) steps: StepChooser,
    /// What the KV cache holds; none before the first frame set and after a new prompt.
    pub(super) view: Option<View>,
    /// Each camera's frame in the set of `view`; none where it was missing.
    pub(super) seen: Vec<Option<Arrival>>,
    /// When the last cycle on a frame set began, and its observation.
    pub(super) last_set: Option<(Instant, Stamp)>,
    pub(super) was_enabled: bool,
    pub(super) rebuild: Rebuild,
    pub(super) wake: Wake,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
}

/// The settings that say when what is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub max_image_age_ms: f64,
    pub max_joint_age_ms: f64,
    pub budget_ms: f64,
    /// Shortest time between acts on the same frame set; none: one act for each.
    pub act_interval_ms: Option<f64>,
    pub sync_tolerance_ms: f64,
    pub lead: Lead,
}

impl Timing {
    pub fn new(settings: &Settings) -> Self {
        Self {
            max_image_age_ms: settings.max_image_age_ms,
            max_joint_age_ms: settings.max_joint_age_ms,
            budget_ms: settings.latency_budget_ms,
            act_interval_ms: (settings.act_rate_hz > 0.0).then(|| 1e3 / settings.act_rate_hz),
            sync_tolerance_ms: settings.sync_tolerance_ms,
            lead: Lead::new(settings),
        }
    }
}

/// What the KV cache was made of, and what was made of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Oldest and newest stamp of the images.
    pub images: (Stamp, Stamp),
    /// When the last act began.
    pub acted: Option<Stamp>,
    /// The joint state of the last act.
    pub joints: Stamp,
}

impl View {
    /// Of images of which the oldest and the newest have these stamps.
    pub fn new(images: (Stamp, Stamp)) -> Self {
        Self { images, acted: None, joints: Stamp(0) }
    }
}

/// How a step takes the time.
pub(super) struct Now<'a> {
    pub clock: &'a dyn Fn() -> Stamp,
    /// Whether the clock runs, so that it matters how long things take.
    pub runs: bool,
    /// Which number of denoising steps to take, where it is not for the budget to say.
    pub steps: Option<usize>,
    /// Whether what leads the chunk is known, from a recording.
    pub is_guide_known: bool,
}

/// When a chunk's making began, by the node's clock and by this machine's, and what took how long.
#[derive(Clone, Copy)]
pub(super) struct Began {
    pub stamp: Stamp,
    pub at: Instant,
    /// From the last image's arrival until then; none where no image is new.
    pub waited: Option<Duration>,
    /// What it took to make the prompt, where the state is in it.
    pub prompted: Duration,
    /// When perceive was started, if it was, and when the device was done with it, once that was waited for.
    pub perceive_started: Option<Instant>,
    pub perceived: Option<Instant>,
    /// What the device's programs took so far.
    pub device: Duration,
    pub parts: Parts,
}

impl Began {
    pub fn now(stamp: Stamp) -> Self {
        let (prompted, device) = (Duration::ZERO, Duration::ZERO);
        Self {
            stamp,
            at: Instant::now(),
            waited: None,
            prompted,
            perceive_started: None,
            perceived: None,
            device,
            parts: Parts::default(),
        }
    }
}

impl Cycle {
    /// Steps whenever something has come, until `stop`. `clock` is the clock of the messages' receivers.
    pub fn run(&mut self, clock: impl Fn() -> Stamp, stop: &AtomicBool) {
        let now = Now { clock: &clock, runs: true, steps: None, is_guide_known: false };
        while !stop.load(Relaxed) {
            self.step_by(&now);
            self.wake.wait(self.sleep(clock()));
        }
    }

    /// Looks at the mailboxes once, and makes a chunk if there is something new. `now` is the time on the clock of the
    /// messages' receivers, which stands still meanwhile: what comes out does not depend on how long this takes.
    pub fn step(&mut self, now: Stamp) -> Outcome {
        self.step_by(&Now { clock: &|| now, runs: false, steps: None, is_guide_known: false })
    }

    /// As [`Self::step`], by a clock that runs: the budget decides how many denoising steps there are.
    pub fn step_in_time(&mut self, clock: &dyn Fn() -> Stamp) -> Outcome {
        self.step_by(&Now { clock, runs: true, steps: None, is_guide_known: false })
    }

    fn step_by(&mut self, now: &Now) -> Outcome {
        self.shared.beat();
        if self.rebuild.has_failed() {
            return Outcome::Idle;
        }
        self.follow_tuning();
        self.follow_enable((now.clock)());
        if !self.shared.is_active() {
            self.view = None;
            self.led.fresh_from = self.sequence;
            self.shared.set(Phase::Waiting, None);
            return Outcome::Idle;
        }
        let outcome = self.update_prompt().and_then(|()| self.look(now));
        self.shared.set_busy(false);
        outcome.unwrap_or_else(|error| self.recover(&error, (now.clock)()))
    }

    /// How long there is nothing to do unless something comes.
    fn sleep(&self, now: Stamp) -> Duration {
        let acted = self.view.and_then(|view| view.acted);
        match (self.timing.act_interval_ms, acted) {
            (Some(interval_ms), Some(acted)) => {
                let left_ms = interval_ms - now.ms_since(acted);
                Duration::try_from_secs_f64(left_ms / 1e3).unwrap_or(SLEEP).clamp(SHORTEST_SLEEP, SLEEP)
            }
            _ => SLEEP,
        }
    }

    /// Takes over what somebody has set.
    fn follow_tuning(&mut self) {
        if self.tuning.take() {
            let timing = *self.tuning.value();
            if !timing.lead.joins_as(&self.timing.lead) {
                self.led.fresh_from = self.sequence;
            }
            self.timing = timing;
            self.frames.set_times(self.timing.sync_tolerance_ms, self.timing.max_image_age_ms);
        }
    }

    /// Tells the robot to stay where it is when the node has been disabled.
    fn follow_enable(&mut self, now: Stamp) {
        // In this order: what is followed is then never newer than what was looked at.
        let active = self.shared.is_active();
        let enabled = self.shared.is_enabled();
        if self.was_enabled && !enabled && self.sequence > 0 {
            self.hold(DropReason::Disabled, now);
        }
        self.was_enabled = enabled;
        self.shared.follow_active(active);
    }

    pub(super) fn update_prompt(&mut self) -> Result<(), DeviceError> {
        if self.prompt.take()
            && let Some(prompt) = self.prompt.held()
        {
            // The KV cache is of the old prompt, and maybe of other programs; what was sent is of the old task.
            self.view = None;
            self.led.fresh_from = self.sequence;
            // With a state in it, it is written before each perceive.
            if self.state_writer.is_none() {
                self.model.set_prompt(&prompt.tokens)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, now: &Now) -> Result<Outcome, DeviceError> {
        let began = Began::now((now.clock)());
        match self.frames.look(began.stamp) {
            Look::Waiting => self.act_again(now),
            Look::Apart { spread_ms } => {
                self.metrics.apart(spread_ms);
                self.act_again(now)
            }
            Look::Complete => self.perceive_and_act(began, now),
        }
    }

    /// A new frame set to a chunk.
    fn perceive_and_act(&mut self, mut began: Began, now: &Now) -> Result<Outcome, DeviceError> {
        self.metrics.frame_sets.add_one();
        self.view = None;
        let Some(images) = self.frames.span() else { return Ok(Outcome::Idle) };
        if let Some(reason) = self.images_too_old(images, began.stamp) {
            return Ok(self.dropped(reason));
        }
        self.note_arrival(&mut began, images.1, now.runs);
        if let Some(reason) = self.read_prompt_state(&mut began)? {
            return Ok(self.dropped(reason));
        }
        self.shared.set_busy(true);
        self.perceive(&mut began)?;
        self.view = Some(View::new(images));
        self.act(images.1, began, now)
    }

    /// A newer joint state with the KV cache, if that is wanted and due: as it is, or made anew where the state is in it.
    fn act_again(&mut self, now: &Now) -> Result<Outcome, DeviceError> {
        let (Some(interval_ms), Some(view)) = (self.timing.act_interval_ms, self.view) else {
            return Ok(Outcome::Idle);
        };
        let stamp = (now.clock)();
        if let Some(reason) = self.images_too_old(view.images, stamp) {
            self.view = None;
            return Ok(self.dropped(reason));
        }
        self.joints.take();
        let newer = self.joints.held().map(JointSample::since).filter(|&since| since > view.joints);
        let due = view.acted.is_none_or(|acted| stamp.ms_since(acted) >= interval_ms);
        let Some(since) = newer.filter(|_| due) else { return Ok(Outcome::Idle) };
        // Once, whatever comes of it.
        self.view = Some(View { acted: Some(stamp), joints: since, ..view });
        let mut began = Began::now(stamp);
        if let Some(reason) = self.perceive_again(&mut began)? {
            return Ok(self.dropped(reason));
        }
        self.act(since.max(view.images.1), began, now)
    }

    pub(super) fn images_too_old(&self, (oldest, newest): (Stamp, Stamp), now: Stamp) -> Option<DropReason> {
        let too_old = |stamp| too_old(stamp, now, self.timing.max_image_age_ms, DropReason::ImagesStale);
        too_old(oldest).or(too_old(newest))
    }

    pub(super) fn dropped(&self, reason: DropReason) -> Outcome {
        self.metrics.dropped(reason);
        self.metrics.cycle_finished(&CycleRecord::dropped(reason));
        if self.shared.phase() != Phase::Holding {
            self.shared.set(Phase::Waiting, Some(reason));
        }
        Outcome::Dropped(reason)
    }
}
