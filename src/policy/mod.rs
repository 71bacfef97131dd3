//! pi0 and pi0.5 as two graphs, *perceive* and *act*, for any configuration; and the checkpoint that fills them.
//!
//! Called by `control` (the loop) and `cli` (one shot), which hand the graphs to a device.
//! From small to large: `gemma` and `siglip` are layers, `prefix` and `suffix` are the two token sequences,
//! `denoise` is the Euler loop over the suffix, and this file puts them together. What pi0 and pi0.5 differ in, `variant` says.

pub mod checkpoint;
pub mod components;
pub mod config;
mod continuation;
mod denoise;
mod description;
pub mod example;
mod gemma;
pub mod intermediates;
mod keys;
mod prefix;
mod siglip;
mod suffix;
pub mod variant;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use components::Component;
pub use config::PolicyConfig;
pub use continuation::{Continuation, Schedule};
pub use description::ConfigError;
pub use intermediates::Intermediates;
pub use variant::{StateInput, TimeInput, Variant};

use crate::graph::{DType, Graph, GraphBuilder, GraphError, Source, TensorType, ValueId, passes};

/// Name of the act graph's result, `[action_horizon, action_dim]` in normalised units.
pub const ACTIONS: &str = "actions";
/// Name of input `camera` of the perceive graph: f32 `[3, image, image]` in [-1, 1].
pub fn image_input(camera: usize) -> String {
    format!("image_{camera}")
}
/// Bool `[cameras]`: which cameras are there. The image of an absent one is -1 everywhere.
pub const IMAGE_MASKS: &str = "image_masks";
/// I32 `[prompt_tokens]`, padded with 0.
pub const TOKENS: &str = "tokens";
/// Bool `[prompt_tokens]`: which tokens are not padding.
pub const TOKEN_MASK: &str = "token_mask";
/// F32 `[1, state_dim]`, normalised and padded with 0; no input of a model that has its state in the prompt.
pub const STATE: &str = "state";
/// F32 `[action_horizon, action_dim]`, standard normal.
pub const NOISE: &str = "noise";

/// F32 `[action_horizon, action_dim]`: the chunk before, in this one's points and units; an input of models that continue it.
pub const PREVIOUS_CHUNK: &str = "previous_chunk";
/// F32 `[action_horizon, 1]`: how much each point of the chunk before counts, from 0 to 1; where points are given, 0 or 1.
pub const PREFIX_WEIGHTS: &str = "prefix_weights";

/// The model's two programs as data.
#[derive(Clone, Debug)]
pub struct PolicyGraphs {
    /// Images, image masks, tokens, token mask -> the prefix's KV cache and mask, kept on the device.
    pub perceive: Graph,
    /// KV cache, state, noise -> actions, all Euler steps unrolled.
    pub act: Graph,
}

impl PolicyGraphs {
    /// The graphs for `cameras` cameras, simplified, with the chosen intermediate values as further outputs.
    pub fn build(
        config: &PolicyConfig,
        cameras: usize,
        intermediates: &Intermediates,
    ) -> Result<Self, GraphError> {
        Self::rewritten(config, cameras, intermediates, passes::simplify)
    }

    /// The graphs rewritten by `rewrite`: as the device that will run them likes them best.
    pub fn rewritten(
        config: &PolicyConfig,
        cameras: usize,
        intermediates: &Intermediates,
        rewrite: impl Fn(Graph) -> Result<Graph, GraphError>,
    ) -> Result<Self, GraphError> {
        let raw = Self::as_written(config, cameras, intermediates)?;
        Ok(Self { perceive: rewrite(raw.perceive)?, act: rewrite(raw.act)? })
    }

    /// The graphs as the formulas stand, before any pass.
    pub fn as_written(
        config: &PolicyConfig,
        cameras: usize,
        intermediates: &Intermediates,
    ) -> Result<Self, GraphError> {
        let mut perceive = GraphBuilder::new("perceive");
        prefix::build(&mut perceive, config, cameras, intermediates)?;
        let mut act = GraphBuilder::new("act");
        denoise::build(&mut act, config, cameras, intermediates)?;
        Ok(Self { perceive: perceive.finish(), act: act.finish() })
    }
}

/// One tensor that a checkpoint of some configuration must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    pub key: String,
    pub shape: Vec<usize>,
}

/// Every tensor that a checkpoint of this configuration holds: what the graphs declare, so there is no second list.
pub fn weight_specs(config: &PolicyConfig) -> Result<Vec<WeightSpec>, GraphError> {
    let graphs = PolicyGraphs::as_written(config, 1, &Intermediates::All)?;
    let declared = graphs.perceive.values.into_iter().chain(graphs.act.values);
    Ok(declared
        .filter_map(|value| match value.source {
            Source::Weight { key, stored } => Some(WeightSpec { key, shape: stored }),
            _ => None,
        })
        .collect())
}

/// The prefix as the act graph finds it on the device: one key and value per layer, and the mask of real tokens.
#[derive(Clone, Debug)]
struct PrefixCache {
    /// `[prefix_tokens, kv_heads * head_dim]` per layer, keys after rotation.
    keys: Vec<ValueId>,
    values: Vec<ValueId>,
    /// Bool `[prefix_tokens]`.
    mask: ValueId,
}

impl PrefixCache {
    /// Name of a value on the device: caches of different lengths can be there side by side.
    fn name(tokens: usize, what: &str) -> String {
        format!("prefix.{tokens}.{what}")
    }

    /// Perceive's side: keeps the values on the device.
    fn keep(&self, b: &mut GraphBuilder) {
        let tokens = b.shape(self.mask)[0];
        for (layer, (&key, &value)) in self.keys.iter().zip(&self.values).enumerate() {
            b.keep_resident(&Self::name(tokens, &format!("k.{layer}")), key);
            b.keep_resident(&Self::name(tokens, &format!("v.{layer}")), value);
        }
        b.keep_resident(&Self::name(tokens, "mask"), self.mask);
    }

    /// Act's side: finds them there.
    fn find(b: &mut GraphBuilder, config: &PolicyConfig, cameras: usize) -> Self {
        let tokens = config.prefix_tokens(cameras);
        let ty = TensorType::f32([tokens, config.vlm.kv_heads * config.vlm.head_dim]);
        let mut each = |what: &str| -> Vec<ValueId> {
            let names = (0..config.vlm.layers).map(|layer| Self::name(tokens, &format!("{what}.{layer}")));
            names.map(|name| b.resident(&name, ty.clone())).collect()
        };
        let (keys, values) = (each("k"), each("v"));
        Self {
            keys,
            values,
            mask: b.resident(&Self::name(tokens, "mask"), TensorType::new(DType::Bool, [tokens])),
        }
    }
}
