//! From settings to a control loop: opens the checkpoint, compiles the model, loads tokenizer and statistics, and checks
//! that all of it fits together. Called by `node` and `cli replay`.

use std::sync::Arc;
use std::time::Instant;

use super::budget::StepChooser;
use super::chunk::Chunk;
use super::cycle::{Cycle, Timing};
use super::guide::Led;
use super::inputs::{CameraInput, JointInput, JointSample, Prompt, PromptInput};
use super::limits::{Limits, LimitsError};
use super::mailbox::mailbox;
use super::model::{Model, ModelError};
use super::output::{ChunkOutput, Rules, output};
use super::prompt::{Prompts, empty_task, trained};
use super::rebuild::Rebuild;
use super::state::{Enable, LoopState, Shared};
use super::stream::Stream;
use super::sync::{Frame, FrameSync};
use super::tuning::Tuner;
use super::wake::Wake;
use super::witness::Used;
use crate::device::{self, Device, DeviceError, DeviceOptions, Progress, Silent};
use crate::observe::{
    ImagePreprocessor, JoinedJoints, JointOrder, JointUnits, NormalizationError, Normalizer, PromptTokens,
    RelativeActions, RelativeActionsError, TokenizerError, UnitsError,
};
use crate::policy::{Checkpoint, CheckpointError, Continuation, PolicyConfig};
use crate::settings::{ChunkJoin, Output, Settings};
use crate::telemetry::{Metrics, Snapshot};

/// Opens the device that the settings name, at first and after it has failed.
pub type OpenDevice = Box<dyn FnMut(&Settings) -> Result<Box<dyn Device>, DeviceError> + Send>;

/// A control loop and its ends.
pub struct Wiring {
    /// The cameras that have a topic, in the order of the settings.
    pub cameras: Vec<CameraInput>,
    pub joints: JointInput,
    pub prompt: PromptInput,
    pub cycle: Cycle,
    pub chunks: ChunkOutput,
    /// Where positions of every tick come from; none where no output is a stream.
    pub stream: Option<Stream>,
    /// Where chunks and positions go.
    pub outputs: Vec<Output>,
    pub enable: Enable,
    pub tuner: Tuner,
    pub monitor: Monitor,
}

/// Lets anybody see how the loop is doing, at any time.
#[derive(Clone)]
pub struct Monitor {
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    device: Arc<str>,
    model: Arc<str>,
    remarks: Arc<[String]>,
}

impl Monitor {
    /// Of a loop that records into `metrics` and `shared` and runs `model` on `device`, both as people call them.
    pub fn new(metrics: Arc<Metrics>, shared: Arc<Shared>, device: &str, model: &str) -> Self {
        Self { metrics, shared, device: device.into(), model: model.into(), remarks: Arc::default() }
    }

    /// With what is to be said of the checkpoint and the settings.
    fn with_remarks(mut self, remarks: Vec<String>) -> Self {
        self.remarks = remarks.into();
        self
    }

    /// What whoever starts this should know of the checkpoint and the settings: where the statistics come from, joints that
    /// they blow up.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Everything that is counted and timed.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts and latencies up to now.
    pub fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// What the loop is doing, and why.
    pub fn state(&self) -> LoopState {
        self.shared.state()
    }

    /// Whether nothing leaves because nobody has called `~/enable` yet.
    pub fn awaits_enabling(&self) -> bool {
        self.shared.awaits_enabling()
    }

    /// The device that runs the model.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The model and what its latency depends on, in a few words.
    pub fn model(&self) -> &str {
        &self.model
    }
}

/// Builds the loop. The programs have run once when this returns, so that the first cycle is like any other.
pub fn assemble(settings: &Settings, progress: &dyn Progress) -> Result<Wiring, AssembleError> {
    assemble_on(settings, progress, Box::new(open_device))
}

/// As [`assemble`], on devices that `open` opens.
pub fn assemble_on(
    settings: &Settings,
    progress: &dyn Progress,
    mut open: OpenDevice,
) -> Result<Wiring, AssembleError> {
    let cameras = settings.cameras.iter().filter(|camera| camera.topic.is_some()).count();
    if cameras == 0 {
        return Err(AssembleError::NoCamera);
    }
    if settings.joints.is_empty() {
        return Err(AssembleError::NoJoints);
    }
    let checkpoint = Checkpoint::open(&settings.checkpoint)?;
    let config = *checkpoint.config();
    let continuation = continuation(settings, &config)?;

    // Cheap things first: nobody should wait for a compilation to hear of a missing file.
    let joints = settings.joints.len();
    let normalizer =
        Normalizer::load(checkpoint.folder(), &settings.normalization, joints, trained(&config))?;
    let units =
        JointUnits::new(&settings.joint_scale, &settings.joint_offset, &settings.joint_conversion, joints)?;
    let relative = RelativeActions::of_checkpoint(
        normalizer.relative(),
        &settings.delta_actions,
        &settings.velocity_step,
        &settings.joints,
    )?;
    let limits = Limits::new(&settings.limits, &settings.joints)?;
    let joined =
        JoinedJoints::new(JointOrder::new(&settings.joints), limits.velocity_max(), &settings.joint_scale);
    let wake = Wake::default();
    let (velocity_sender, velocity_max) = mailbox(&limits.velocity_max().to_vec(), &wake);
    let rules = Rules::new(settings, limits);
    let metrics = Arc::new(Metrics::new(
        settings.cameras.iter().filter(|camera| camera.topic.is_some()).map(|camera| camera.name.as_str()),
    ));
    let no_prompt = Prompt { tokens: PromptTokens::room(0), number: 0 };
    let (prompt_sender, mut prompt_receiver) = mailbox(&no_prompt, &wake);
    let prompts = Prompts::load(checkpoint.folder(), settings.tokenizer.as_deref(), &config, joints)?;
    let state_writer = prompts.writer();
    let mut prompt =
        PromptInput { prompts, number: 0, mailbox: prompt_sender, metrics: metrics.clone(), witness: None };
    prompt.put(&settings.prompt)?;

    let mut model = make_model(settings, &checkpoint, cameras, open(settings)?, progress)?;
    let description = describe(&checkpoint, &config, model.step_counts());
    drop(checkpoint);
    // With the first prompt, so that the programs that warm up are those that will run.
    let mut lengths = 0..=0;
    if prompt_receiver.take()
        && let Some(task) = prompt_receiver.held()
    {
        model.set_prompt(&task.tokens)?;
        lengths = prompt.prompts.lengths(&task.tokens);
    }
    let start = Instant::now();
    model.warm_up(lengths)?;
    let steps = expected_steps(&mut model)?;
    let warm_up_ms = start.elapsed().as_secs_f64() * 1e3;
    if warm_up_ms > settings.watchdog_ms {
        tracing::warn!(
            "the warm-up took {warm_up_ms:.0} ms and watchdog_ms is {}: if a cycle takes as long, nothing is sent",
            settings.watchdog_ms
        );
    }

    let (cameras, frames) = camera_inputs(settings, &config, &wake, &metrics);
    let (joint_sender, joint_receiver) = mailbox(&JointSample::empty(joints), &wake);
    let shared = Arc::new(Shared::new(settings.watchdog_ms, !settings.require_enable));
    let mut room = Chunk::new(config.action_horizon, joints, settings.control_hz);
    room.used = Used::room(cameras.len(), config.action_horizon, joints);
    let timing = Timing::new(settings);
    let (timing_sender, tuning) = mailbox(&timing, &wake);
    let (ends, mut chunks) = output(&room, rules, shared.clone(), metrics.clone());
    let monitor = Monitor::new(metrics.clone(), shared.clone(), &model.device(), &description)
        .with_remarks(remarks(&normalizer, &relative, settings));
    let stream = settings
        .outputs
        .iter()
        .any(Output::is_stream)
        .then(|| Stream::new(&mut chunks, settings.stream_hz, shared.clone(), metrics.clone()));
    let rebuild = {
        let (settings, cameras) = (settings.clone(), cameras.len());
        Rebuild::new(Box::new(move || {
            let checkpoint = Checkpoint::open(&settings.checkpoint)?;
            make_model(&settings, &checkpoint, cameras, open(&settings)?, &Silent)
        }))
    };
    Ok(Wiring {
        cameras,
        joints: JointInput::new(settings, joined, velocity_max, joint_sender, metrics.clone()),
        prompt,
        tuner: Tuner::new(timing_sender, ends.rules, velocity_sender, continuation),
        enable: Enable { shared: shared.clone(), wake: wake.clone(), witness: None },
        cycle: Cycle {
            model,
            frames,
            prompt: prompt_receiver,
            state_writer,
            joints: joint_receiver,
            units,
            model_joints: vec![0.0; joints],
            normalizer,
            relative,
            chunks: ends.chunks,
            led: Led::new(room.used.guide.clone(), ends.underway),
            seed: settings.seed,
            sequence: 0,
            timing,
            tuning,
            steps,
            view: None,
            seen: room.used.frames.clone(),
            last_set: None,
            was_enabled: !settings.require_enable,
            rebuild,
            wake,
            shared,
            metrics,
        },
        chunks,
        stream,
        outputs: settings.outputs.clone(),
        monitor,
    })
}

/// What whoever starts this should know.
fn remarks(normalizer: &Normalizer, relative: &RelativeActions, settings: &Settings) -> Vec<String> {
    let joints = &settings.joints;
    let mut remarks: Vec<String> = normalizer.remarks(joints);
    remarks.extend(empty_task(&settings.prompt).map(str::to_owned));
    if normalizer.relative().is_some_and(|step| step.enabled) {
        let (differences, joints) = (relative.differences(), joints.len());
        remarks.push(format!(
            "by the checkpoint, the actions of {differences} of {joints} joints are differences from the state"
        ));
    }
    remarks
}

/// The checkpoint and what its latency depends on, for people.
fn describe(checkpoint: &Checkpoint, config: &PolicyConfig, step_counts: &[usize]) -> String {
    let name = checkpoint.folder().file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let steps: Vec<String> = step_counts.iter().map(usize::to_string).collect();
    let points = config.action_horizon;
    format!("{name}, {} denoising steps, chunks of {points} points", steps.join(" or "))
}

fn open_device(settings: &Settings) -> Result<Box<dyn Device>, DeviceError> {
    let Settings { threads, precision, tenstorrent, .. } = *settings;
    let cuda_libraries = settings.cuda_libraries.clone();
    device::open(
        &settings.device,
        DeviceOptions { threads, precision, cuda_libraries, tenstorrent, mock: false },
    )
}

fn make_model(
    settings: &Settings,
    checkpoint: &Checkpoint,
    cameras: usize,
    device: Box<dyn Device>,
    progress: &dyn Progress,
) -> Result<Model, AssembleError> {
    let config = checkpoint.config();
    let config = &PolicyConfig { continuation: continuation(settings, config)?, ..*config };
    let own = [config.denoising_steps];
    let step_counts = if settings.denoise_steps.is_empty() { &own[..] } else { &settings.denoise_steps };
    Ok(Model::compile(checkpoint, config, cameras, step_counts, device, progress)?)
}

/// How chunks continue each other, by what is wanted and what the checkpoint was trained for.
fn continuation(settings: &Settings, config: &PolicyConfig) -> Result<Continuation, AssembleError> {
    match (settings.chunk_join, config.continuation) {
        (ChunkJoin::Trained { .. }, Continuation::Given { most }) => Ok(Continuation::Given { most }),
        (ChunkJoin::Trained { .. }, _) => Err(AssembleError::NotTrained),
        (ChunkJoin::Auto { .. }, Continuation::Given { most }) => Ok(Continuation::Given { most }),
        (ChunkJoin::Auto { .. } | ChunkJoin::Guided { .. }, _) => {
            Ok(Continuation::Guided { most: settings.rtc.most_guidance })
        }
        (ChunkJoin::Replace | ChunkJoin::Blend { .. }, _) => Ok(Continuation::Free),
    }
}

/// What each number of denoising steps takes, measured once each after the warm-up; nothing where there is no choice.
fn expected_steps(model: &mut Model) -> Result<StepChooser, DeviceError> {
    let mut steps = StepChooser::new(model.step_counts());
    let choices = model.step_counts().len();
    // The smallest first, so that the last measured is the one that will run.
    for choice in (0..choices).rev().filter(|_| choices > 1) {
        let start = Instant::now();
        model.start_act(choice)?;
        model.wait()?;
        steps.record(choice, start.elapsed());
    }
    Ok(steps)
}

/// An input for each camera with a topic, and what matches their frames.
fn camera_inputs(
    settings: &Settings,
    config: &PolicyConfig,
    wake: &Wake,
    metrics: &Arc<Metrics>,
) -> (Vec<CameraInput>, FrameSync) {
    let side = config.vision.image;
    let empty = Frame::empty(3 * side * side);
    let (mut inputs, mut mailboxes) = (Vec::new(), Vec::new());
    for camera in &settings.cameras {
        let Some(topic) = &camera.topic else { continue };
        let (sender, receiver) = mailbox(&empty, wake);
        inputs.push(CameraInput {
            camera: camera.clone(),
            topic: topic.clone(),
            index: inputs.len(),
            preprocessor: ImagePreprocessor::new(side, side),
            max_age_ms: settings.max_image_age_ms,
            mailbox: sender,
            metrics: metrics.clone(),
            witness: None,
        });
        mailboxes.push((receiver, camera.missing));
    }
    (inputs, FrameSync::new(mailboxes, settings.sync_tolerance_ms, settings.max_image_age_ms))
}

/// Settings from which no control loop can be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("no camera has a topic: set 'camera_topics'")]
    NoCamera,
    #[error("there are no joints: set 'joints' to the robot's joint names in the model's order")]
    NoJoints,
    #[error(
        "chunk_join is trained, but the checkpoint was not trained with given points (its config.json has no \
         rtc_training_max_delay): set it to guided, which any checkpoint can do"
    )]
    NotTrained,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Normalization(#[from] NormalizationError),
    #[error(transparent)]
    RelativeTo(#[from] RelativeActionsError),
    #[error(transparent)]
    Units(#[from] UnitsError),
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}
