//! From settings to a control loop: opens the checkpoint, compiles the model, loads tokenizer and statistics, and checks
//! that all of it fits together. Called by `node` and `cli replay`.

use std::sync::Arc;

use super::chunk::{self, ChunkOutput};
use super::cycle::Cycle;
use super::inputs::{CameraInput, JointInput, JointSample, PromptInput};
use super::mailbox::mailbox;
use super::model::{Model, ModelError};
use super::sync::{Frame, FrameSync};
use super::wake::Wake;
use crate::device::{self, DeviceError, DeviceOptions, Progress};
use crate::observe::messages::Stamp;
use crate::observe::{
    DeltaError, DeltaMask, ImagePreprocessor, JointOrder, NormalizationError, Normalizer, PromptTokenizer,
    PromptTokens, TokenizerError,
};
use crate::policy::{Checkpoint, CheckpointError, PolicyConfig};
use crate::settings::Settings;
use crate::telemetry::{CycleRecord, Metrics, Snapshot};

/// A control loop and its ends.
pub struct Wiring {
    /// The cameras that have a topic, in the order of the settings.
    pub cameras: Vec<CameraInput>,
    pub joints: JointInput,
    pub prompt: PromptInput,
    pub cycle: Cycle,
    pub chunks: ChunkOutput,
    pub monitor: Monitor,
}

/// Lets anybody see how the loop is doing, at any time.
#[derive(Clone)]
pub struct Monitor {
    metrics: Arc<Metrics>,
    device: Arc<str>,
    model: Arc<str>,
}

impl Monitor {
    /// Of a loop that records into `metrics` and runs `model` on `device`, both as people call them.
    pub fn new(metrics: Arc<Metrics>, device: &str, model: &str) -> Self {
        Self { metrics, device: device.into(), model: model.into() }
    }

    /// Everything that is counted and timed.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts and latencies up to now.
    pub fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// The device that runs the model.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The model and its sizes that matter most, in a few words.
    pub fn model(&self) -> &str {
        &self.model
    }
}

/// Builds the loop. The programs have run once when this returns, so that the first cycle is like any other.
pub fn assemble(settings: &Settings, progress: &dyn Progress) -> Result<Wiring, AssembleError> {
    let cameras = settings.cameras.iter().filter(|camera| camera.topic.is_some()).count();
    if cameras == 0 {
        return Err(AssembleError::NoCamera);
    }
    if settings.joints.is_empty() {
        return Err(AssembleError::NoJoints);
    }
    let checkpoint = Checkpoint::open(&settings.checkpoint)?;
    let mut config = *checkpoint.config();
    config.denoising_steps = settings.num_inference_steps.unwrap_or(config.denoising_steps);

    // Cheap things first: nobody should wait for a compilation to hear of a missing file.
    let joints = settings.joints.len();
    let normalizer = Normalizer::load(
        checkpoint.folder(),
        &settings.normalization,
        joints,
        config.state_dim,
        config.action_dim,
    )?;
    let delta = DeltaMask::from_openpi(&settings.delta_actions, joints)?;
    if normalizer.relative_actions() && settings.delta_actions.is_empty() {
        return Err(AssembleError::RelativeActions);
    }
    let wake = Wake::default();
    let metrics = Arc::new(Metrics::new(
        settings.cameras.iter().filter(|camera| camera.topic.is_some()).map(|camera| camera.name.as_str()),
    ));
    let no_prompt = PromptTokens { ids: Vec::new(), mask: Vec::new() };
    let (prompt_sender, mut prompt_receiver) = mailbox(&no_prompt, &wake);
    let mut prompt = PromptInput {
        tokenizer: PromptTokenizer::find(checkpoint.folder(), settings.tokenizer.as_deref())?,
        length: config.prompt_tokens,
        vocabulary: config.vocabulary,
        mailbox: prompt_sender,
        metrics: metrics.clone(),
    };
    prompt.put(&settings.prompt)?;

    let device = device::open(
        &settings.device,
        DeviceOptions { threads: settings.threads, precision: settings.precision },
    )?;
    let mut model = Model::compile(&checkpoint, &config, cameras, device, progress)?;
    // With the first prompt, so that the programs that warm up are those that will run.
    if prompt_receiver.take()
        && let Some(prompt) = prompt_receiver.held()
    {
        model.set_prompt(prompt)?;
    }
    model.warm_up()?;

    let (cameras, frames) = camera_inputs(settings, &config, &wake, &metrics);
    let sample = JointSample { stamp: Stamp(0), received: Stamp(0), positions: vec![0.0; joints] };
    let (joint_sender, joint_receiver) = mailbox(&sample, &wake);
    let (chunk_sender, chunks) = chunk::output(config.action_horizon, joints, settings.control_hz);
    let monitor = Monitor::new(metrics.clone(), &model.device(), &describe(&checkpoint, &config));
    Ok(Wiring {
        cameras,
        joints: JointInput {
            topic: settings.joint_states_topic.clone(),
            order: JointOrder::new(&settings.joints),
            mailbox: joint_sender,
            metrics: metrics.clone(),
        },
        prompt,
        cycle: Cycle {
            model,
            frames,
            prompt: prompt_receiver,
            joints: joint_receiver,
            normalizer,
            delta,
            chunks: chunk_sender,
            seed: settings.seed,
            sequence: 0,
            sensor_timeout_ms: settings.sensor_timeout_ms,
            wake,
            metrics,
            record: CycleRecord::default(),
        },
        chunks,
        monitor,
    })
}

/// The checkpoint and what its latency depends on, for people.
fn describe(checkpoint: &Checkpoint, config: &PolicyConfig) -> String {
    let name = checkpoint.folder().file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let PolicyConfig { denoising_steps, action_horizon, .. } = config;
    format!("{name}: {denoising_steps} denoising steps, chunks of {action_horizon} points")
}

/// An input for each camera with a topic, and what matches their frames.
fn camera_inputs(
    settings: &Settings,
    config: &PolicyConfig,
    wake: &Wake,
    metrics: &Arc<Metrics>,
) -> (Vec<CameraInput>, FrameSync) {
    let side = config.vision.image;
    let empty = Frame { stamp: Stamp(0), pixels: vec![0.0; 3 * side * side] };
    let (mut inputs, mut mailboxes) = (Vec::new(), Vec::new());
    for camera in &settings.cameras {
        let Some(topic) = &camera.topic else { continue };
        let (sender, receiver) = mailbox(&empty, wake);
        inputs.push(CameraInput {
            camera: camera.clone(),
            topic: topic.clone(),
            index: inputs.len(),
            preprocessor: ImagePreprocessor::new(side, side),
            mailbox: sender,
            metrics: metrics.clone(),
        });
        mailboxes.push(receiver);
    }
    (inputs, FrameSync::new(mailboxes, settings.sync_tolerance_ms))
}

/// Settings from which no control loop can be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("no camera has a topic: set 'camera_topics'")]
    NoCamera,
    #[error("there are no joints: set 'joints' to the robot's joint names in the model's order")]
    NoJoints,
    #[error(
        "the checkpoint's actions are relative to the state: set 'delta_actions' to openpi's mask for the robot's joints \
         (such as [6, -1, 6, -1])"
    )]
    RelativeActions,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Normalization(#[from] NormalizationError),
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}
