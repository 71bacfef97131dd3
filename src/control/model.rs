//! The policy on its device: its programs, and the buffers through which they are fed and read. Used by the cycle.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::device::{Account, Device, DeviceError, ProgramId, Progress, SectionTime, StepTime};
use crate::graph::{Graph, GraphError, HostTensor, HostView, TensorType, Weights};
use crate::observe::PromptTokens;
use crate::policy::{
    ACTIONS, Checkpoint, Continuation, IMAGE_MASKS, Intermediates, NOISE, PREFIX_WEIGHTS, PREVIOUS_CHUNK,
    PolicyConfig, PolicyGraphs, STATE, StateInput, TOKEN_MASK, TOKENS, image_input,
};

// Programs are made for several lengths of prompts: by the mask no token sees padding, so less of it is the same for less
// work.
/// Of the longest prompts: prompts have at least this many lengths.
const PROMPT_LENGTHS: usize = 3;
/// Lengths are multiples of this many tokens.
const PROMPT_GRAIN: usize = 16;
/// At most this part of a prefix is padding.
const PADDING: f64 = 0.15;
/// Beginning, a word, and the end: no prompt is shorter.
const SHORTEST_PROMPT: usize = 3;

pub(super) struct Model {
    device: Box<dyn Device>,
    /// By the prompt's length, the longest first.
    programs: Vec<Programs>,
    /// The one whose length fits the prompt.
    current: usize,
    /// Numbers of denoising steps, the largest first.
    step_counts: Vec<usize>,
    images: Vec<String>,
    /// Which cameras give images.
    image_masks: Vec<bool>,
    /// What the model sees of a camera that gives none.
    no_image: Vec<f32>,
    /// The images of the last set, where other programs may have to see them again; else nothing.
    seen: Vec<Vec<f32>>,
    /// The programs that have seen them.
    seen_by: usize,
    /// How the state comes to the model.
    state_input: StateInput,
    /// `[1, state_dim]`, normalised.
    pub state: Vec<f32>,
    /// `[action_horizon, action_dim]`
    pub noise: Vec<f32>,
    /// What chunks have to do with the one before.
    continuation: Continuation,
    /// `[action_horizon, action_dim]`: the chunk before, as the model gives actions.
    pub previous_chunk: Vec<f32>,
    /// `[action_horizon]`: how much its points count.
    pub prefix_weights: Vec<f32>,
    actions: HostTensor,
}

/// The programs for prompts of up to `prompt_tokens`. They share their weights with those of other lengths.
struct Programs {
    prompt_tokens: usize,
    perceive: ProgramId,
    /// One for each number of denoising steps, in the order of [`Model::step_counts`].
    act: Vec<ProgramId>,
}

impl Model {
    /// Compiles the programs for the cameras that are there, and acts of each of `step_counts` denoising steps. Absent
    /// cameras are left out: by the mask no token sees theirs, and positions do not count them, so this is the same as a
    /// black image that is masked, for less work.
    pub fn compile(
        checkpoint: &Checkpoint,
        config: &PolicyConfig,
        cameras: usize,
        step_counts: &[usize],
        mut device: Box<dyn Device>,
        progress: &dyn Progress,
    ) -> Result<Self, ModelError> {
        let mut programs = Vec::new();
        for prompt_tokens in prompt_lengths(config.prompt_tokens, cameras * config.vision.tokens()) {
            let config = PolicyConfig { prompt_tokens, ..*config };
            let perceive = graphs(&config, cameras, &*device)?.perceive;
            let perceive = device.compile(&perceive, checkpoint, progress)?;
            let mut act = Vec::with_capacity(step_counts.len());
            for &denoising_steps in step_counts {
                let config = PolicyConfig { denoising_steps, ..config };
                let graph = graphs(&config, cameras, &*device)?.act;
                act.push(device.compile(&graph, checkpoint, progress)?);
            }
            programs.push(Programs { prompt_tokens, perceive, act });
        }
        let actions = TensorType::f32([config.action_horizon, config.action_dim]);
        let pixels = 3 * config.vision.image * config.vision.image;
        let state_input = config.variant.state;
        let kept = if matches!(state_input, StateInput::Prompt { .. }) { pixels } else { 0 };
        Ok(Self {
            device,
            programs,
            current: 0,
            step_counts: step_counts.to_vec(),
            images: (0..cameras).map(image_input).collect(),
            image_masks: vec![true; cameras],
            no_image: vec![-1.0; pixels],
            seen: vec![vec![-1.0; kept]; cameras],
            seen_by: 0,
            state_input,
            state: vec![0.0; config.state_dim],
            noise: vec![0.0; actions.elements()],
            continuation: config.continuation,
            previous_chunk: vec![0.0; actions.elements()],
            prefix_weights: vec![0.0; config.action_horizon],
            actions: HostTensor::zeros(&actions),
        })
    }

    /// Gives the device back, with all that it holds: there is not room for two everywhere. Nothing runs after that.
    pub fn release(&mut self) {
        self.device = Box::new(NoDevice);
    }

    /// The device's own words about itself.
    pub fn device(&self) -> String {
        self.device.describe()
    }

    /// What chunks have to do with the one before.
    pub fn continuation(&self) -> Continuation {
        self.continuation
    }

    /// Numbers of denoising steps to choose from, the largest first.
    pub fn step_counts(&self) -> &[usize] {
        &self.step_counts
    }

    /// Runs once, on nothing in particular, the programs of prompts of these lengths, those of the shortest last: pages are
    /// touched, threads are awake.
    pub fn warm_up(&mut self, lengths: RangeInclusive<usize>) -> Result<(), DeviceError> {
        for current in self.fitting(*lengths.end())..=self.fitting(*lengths.start()) {
            self.current = current;
            self.start_perceive()?;
            for choice in 0..self.step_counts.len() {
                self.start_act(choice)?;
                self.wait()?;
                self.read_actions(choice)?;
            }
        }
        Ok(())
    }

    /// The programs for the shortest prompts that have room for this one.
    fn fitting(&self, length: usize) -> usize {
        self.programs.iter().rposition(|fits| length <= fits.prompt_tokens).unwrap_or(0)
    }

    /// Chooses the programs that fit `prompt`. Images must be set anew, and perceived, before these act.
    pub fn set_prompt(&mut self, prompt: &PromptTokens) -> Result<(), DeviceError> {
        self.current = self.fitting(prompt.len());
        let Programs { prompt_tokens, perceive, .. } = self.programs[self.current];
        self.device.write(perceive, TOKENS, HostView::I32(&prompt.ids[..prompt_tokens]))?;
        self.device.write(perceive, TOKEN_MASK, HostView::Bool(&prompt.mask[..prompt_tokens]))
    }

    /// `pixels` `[3, height, width]` of a camera, numbered among those that are there; none while it gives no images.
    pub fn set_image(&mut self, camera: usize, pixels: Option<&[f32]>) -> Result<(), DeviceError> {
        self.image_masks[camera] = pixels.is_some();
        let perceive = self.programs[self.current].perceive;
        let pixels = pixels.unwrap_or(&self.no_image);
        let seen = &mut self.seen[camera];
        let kept = seen.len();
        seen.copy_from_slice(&pixels[..kept]);
        self.seen_by = self.current;
        self.device.write(perceive, &self.images[camera], HostView::F32(pixels))
    }

    /// The images that were set last once more, for a prompt with another state; its programs may be others.
    pub fn set_images_again(&mut self) -> Result<(), DeviceError> {
        if self.seen_by == self.current {
            return Ok(());
        }
        let perceive = self.programs[self.current].perceive;
        self.seen_by = self.current;
        let mut images = self.images.iter().zip(&self.seen);
        images.try_for_each(|(name, pixels)| self.device.write(perceive, name, HostView::F32(pixels)))
    }

    /// Starts what makes the KV cache of images and prompt.
    pub fn start_perceive(&mut self) -> Result<(), DeviceError> {
        let perceive = self.programs[self.current].perceive;
        self.device.write(perceive, IMAGE_MASKS, HostView::Bool(&self.image_masks))?;
        self.device.start(perceive)
    }

    /// Starts what makes actions of [`Self::noise`] with the KV cache, which may still be in the making, and of [`Self::state`]
    /// where that is not in it, in `step_counts()[choice]` denoising steps.
    pub fn start_act(&mut self, choice: usize) -> Result<(), DeviceError> {
        let act = self.programs[self.current].act[choice];
        if self.state_input == StateInput::Token {
            self.device.write(act, STATE, HostView::F32(&self.state))?;
        }
        self.device.write(act, NOISE, HostView::F32(&self.noise))?;
        if self.continuation != Continuation::Free {
            self.device.write(act, PREVIOUS_CHUNK, HostView::F32(&self.previous_chunk))?;
            self.device.write(act, PREFIX_WEIGHTS, HostView::F32(&self.prefix_weights))?;
        }
        self.device.start(act)
    }

    /// Waits for everything that was started.
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        self.device.wait()
    }

    /// The actions `[action_horizon, action_dim]` of the last act, which was of the same choice and was waited for.
    pub fn read_actions(&mut self, choice: usize) -> Result<&[f32], DeviceError> {
        let act = self.programs[self.current].act[choice];
        self.device.read(act, ACTIONS, &mut self.actions)?;
        match &self.actions {
            HostTensor::F32(actions) => Ok(actions),
            // Made as f32 above.
            HostTensor::I32(_) | HostTensor::Bool(_) => Ok(&[]),
        }
    }

    /// How long the last perception took that was waited for.
    pub fn perceive_time(&self) -> Duration {
        self.device.time(self.programs[self.current].perceive)
    }

    /// How long each section of the last perception took, which was waited for.
    pub fn perceive_sections(&mut self) -> &[SectionTime] {
        self.device.sections(self.programs[self.current].perceive)
    }

    /// How long each section of the last act of this choice took, which was waited for.
    pub fn act_sections(&mut self, choice: usize) -> &[SectionTime] {
        self.device.sections(self.programs[self.current].act[choice])
    }
}

/// Stands where a device was.
struct NoDevice;

impl NoDevice {
    const GONE: DeviceError = DeviceError::NoProgram(0);
}

impl Device for NoDevice {
    fn describe(&self) -> String {
        "no device".into()
    }

    fn compile(&mut self, _: &Graph, _: &dyn Weights, _: &dyn Progress) -> Result<ProgramId, DeviceError> {
        Err(Self::GONE)
    }

    fn write(&mut self, _: ProgramId, _: &str, _: HostView) -> Result<(), DeviceError> {
        Err(Self::GONE)
    }

    fn start(&mut self, _: ProgramId) -> Result<(), DeviceError> {
        Err(Self::GONE)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        Err(Self::GONE)
    }

    fn time(&self, _: ProgramId) -> Duration {
        Duration::ZERO
    }

    fn profile(&mut self, _: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        Err(Self::GONE)
    }

    fn account(&self, _: ProgramId) -> Result<Account, DeviceError> {
        Err(Self::GONE)
    }

    fn read(&mut self, _: ProgramId, _: &str, _: &mut HostTensor) -> Result<(), DeviceError> {
        Err(Self::GONE)
    }
}

/// Both graphs, as the device likes them best.
fn graphs(config: &PolicyConfig, cameras: usize, device: &dyn Device) -> Result<PolicyGraphs, GraphError> {
    PolicyGraphs::rewritten(config, cameras, &Intermediates::None, |graph| device.simplify(graph))
}

/// The length that a prompt of so many tokens is padded to, for a model with so many cameras.
pub fn padded_prompt(config: &PolicyConfig, cameras: usize, tokens: usize) -> usize {
    let lengths = prompt_lengths(config.prompt_tokens, cameras * config.vision.tokens());
    lengths.into_iter().rfind(|&length| tokens <= length).unwrap_or(config.prompt_tokens)
}

/// The lengths that prompts of at most `longest` tokens are padded to behind so many image tokens, the longest first: the
/// next one is as much shorter as [`PADDING`] allows, and by no more than a third of the longest.
fn prompt_lengths(longest: usize, image_tokens: usize) -> Vec<usize> {
    let third = longest.div_ceil(PROMPT_LENGTHS).next_multiple_of(PROMPT_GRAIN);
    let mut lengths = vec![longest];
    let mut last = longest;
    loop {
        let padding = (PADDING * (image_tokens + last) as f64) as usize;
        // The shortest prompt for which the last length is good enough; a shorter one has another.
        let shortest = last.saturating_sub(padding.min(third));
        if shortest <= SHORTEST_PROMPT {
            return lengths;
        }
        // Behind few image tokens there may be no multiple in between: then the next one.
        let next_below = (last - 1) / PROMPT_GRAIN * PROMPT_GRAIN;
        last = (shortest - 1).next_multiple_of(PROMPT_GRAIN).min(next_below);
        if last == 0 {
            return lengths;
        }
        lengths.push(last);
    }
}

/// A policy that a device cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("the model does not fit together: {0}")]
    Graph(GraphError),
    #[error("the device cannot run the model: {0}")]
    Device(DeviceError),
}

// Not sources: the messages say all of them, and a chain of sources would say it again.
impl From<GraphError> for ModelError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<DeviceError> for ModelError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::{CpuDevice, Precision};
    use crate::device::{DeviceOptions, Silent};
    use crate::graph::WeightFormat;
    use crate::policy::checkpoint::init::write_random;

    #[test]
    fn prompts_have_three_lengths_or_as_many_as_keep_the_padding_small() {
        for cameras in 1..4 {
            assert_eq!(prompt_lengths(48, 256 * cameras), [48, 32, 16]);
        }
        assert_eq!(prompt_lengths(200, 3 * 256), [200, 128, 48]);
        assert_eq!(prompt_lengths(200, 256), [200, 144, 96, 48]);
        assert_eq!(prompt_lengths(20, 256), [20, 16]);
        assert_eq!(prompt_lengths(5, 256), [5]);
        assert_eq!(prompt_lengths(48, 16), [48, 32, 16]);
        for (longest, images) in [(48, 256), (200, 256), (200, 512), (200, 768), (77, 256), (1000, 256)] {
            let lengths = prompt_lengths(longest, images);
            for real in SHORTEST_PROMPT..=longest {
                let padded = *lengths.iter().rfind(|&&length| real <= length).unwrap();
                let wasted = (padded - real) as f64 / (images + padded) as f64;
                assert!(wasted <= PADDING, "{real} of {padded} tokens behind {images}: {wasted}");
            }
        }
    }

    fn act(model: &mut Model) -> Vec<f32> {
        model.start_act(0).unwrap();
        model.wait().unwrap();
        model.read_actions(0).unwrap().to_vec()
    }

    /// The programs for short prompts give what masking the padding gives, up to the order of sums.
    #[test]
    fn less_padding_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        write_random(folder.path(), &PolicyConfig::TINY, 3, WeightFormat::F32, &|_| {}).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let options = DeviceOptions::cpu(1, Precision::F32);
        let device = Box::new(CpuDevice::new(options).unwrap());
        let mut model = Model::compile(&checkpoint, &PolicyConfig::TINY, 1, &[10], device, &Silent).unwrap();
        let pixels: Vec<f32> = (0..3 * 56 * 56).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        model.noise.iter_mut().enumerate().for_each(|(i, noise)| *noise = (i % 13) as f32 / 6.0 - 1.0);
        model.state.fill(0.3);

        let prompt = |length: usize| PromptTokens {
            ids: (0..48).map(|i| if i < length as i32 { 1 + i } else { 0 }).collect(),
            mask: (0..48).map(|i| i < length).collect(),
        };
        for (length, fits) in [(5, 16), (16, 16), (17, 32), (40, 48)] {
            model.set_prompt(&prompt(length)).unwrap();
            assert_eq!(model.programs[model.current].prompt_tokens, fits);
            model.set_image(0, Some(&pixels)).unwrap();
            model.start_perceive().unwrap();
            let short = act(&mut model);

            model.current = 0;
            let perceive = model.programs[0].perceive;
            model.device.write(perceive, TOKENS, HostView::I32(&prompt(length).ids)).unwrap();
            model.device.write(perceive, TOKEN_MASK, HostView::Bool(&prompt(length).mask)).unwrap();
            model.set_image(0, Some(&pixels)).unwrap();
            model.start_perceive().unwrap();
            let long = act(&mut model);
            let largest = short.iter().zip(long).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-5, "{length} tokens: {largest:e}");
        }
    }
}
