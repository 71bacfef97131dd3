//! The policy on its device: two programs, and the buffers through which they are fed and read. Used by the cycle.

use crate::device::{self, Device, DeviceError, ProgramId, Progress};
use crate::graph::{GraphError, HostTensor, HostView, TensorType};
use crate::observe::PromptTokens;
use crate::policy::{
    ACTIONS, Checkpoint, IMAGE_MASKS, Intermediates, NOISE, PolicyConfig, PolicyGraphs, STATE, TOKEN_MASK,
    TOKENS, image_input,
};

pub(super) struct Model {
    device: Box<dyn Device>,
    perceive: ProgramId,
    act: ProgramId,
    images: Vec<String>,
    /// `[1, state_dim]`, normalised.
    pub state: Vec<f32>,
    /// `[action_horizon, action_dim]`
    pub noise: Vec<f32>,
    actions: HostTensor,
}

impl Model {
    /// Compiles both programs for the cameras that are there. Absent ones are left out: by the mask no token sees theirs,
    /// and positions do not count them, so this is the same as a black image that is masked, for less work.
    pub fn compile(
        checkpoint: &Checkpoint,
        config: &PolicyConfig,
        cameras: usize,
        mut device: Box<dyn Device>,
        progress: &dyn Progress,
    ) -> Result<Self, ModelError> {
        let graphs = PolicyGraphs::build(config, cameras, &Intermediates::None)?;
        let perceive = device.compile(&graphs.perceive, checkpoint, progress)?;
        let act = device.compile(&graphs.act, checkpoint, progress)?;
        device.write(perceive, IMAGE_MASKS, HostView::Bool(&vec![true; cameras]))?;
        let actions = TensorType::f32([config.action_horizon, config.action_dim]);
        Ok(Self {
            device,
            perceive,
            act,
            images: (0..cameras).map(image_input).collect(),
            state: vec![0.0; config.state_dim],
            noise: vec![0.0; actions.elements()],
            actions: HostTensor::zeros(&actions),
        })
    }

    /// The device's own words about itself.
    pub fn device(&self) -> String {
        self.device.describe()
    }

    pub fn set_prompt(&mut self, prompt: &PromptTokens) -> Result<(), DeviceError> {
        self.device
            .write(self.perceive, TOKENS, HostView::I32(&prompt.ids))?;
        self.device
            .write(self.perceive, TOKEN_MASK, HostView::Bool(&prompt.mask))
    }

    /// `pixels` `[3, height, width]` of a camera, numbered among those that are there.
    pub fn set_image(&mut self, camera: usize, pixels: &[f32]) -> Result<(), DeviceError> {
        self.device
            .write(self.perceive, &self.images[camera], HostView::F32(pixels))
    }

    /// Images and prompt to the KV cache.
    pub fn perceive(&mut self) -> Result<(), DeviceError> {
        self.device.run(self.perceive)
    }

    /// [`Self::state`] and [`Self::noise`] with the KV cache to actions `[action_horizon, action_dim]`.
    pub fn act(&mut self) -> Result<&[f32], DeviceError> {
        self.device.write(self.act, STATE, HostView::F32(&self.state))?;
        self.device.write(self.act, NOISE, HostView::F32(&self.noise))?;
        self.device.run(self.act)?;
        self.device.read(self.act, ACTIONS, &mut self.actions)?;
        match &self.actions {
            HostTensor::F32(actions) => Ok(actions),
            // Made as f32 above.
            HostTensor::I32(_) | HostTensor::Bool(_) => Ok(&[]),
        }
    }
}

/// A policy that a device cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("the model does not fit together: {0}")]
    Graph(#[from] GraphError),
    #[error("the device cannot run the model: {0}")]
    Device(#[from] device::DeviceError),
}
