//! The model's sizes from its weights, for checkpoints whose `config.json` does not say them: openpi's PyTorch training writes
//! none. What no weight shows (how long chunks are, how many steps there are) is asked for by name. Called when a checkpoint is
//! opened.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{CheckpointError, Stored};
use crate::policy::PolicyConfig;
use crate::policy::keys::{EMBEDDING, EXPERT, VISION, VLM};

/// Whether a configuration leaves the sizes to the weights: it names neither the kind nor the variants of the model.
pub(super) fn are_left_to_weights(config: &Value) -> bool {
    let names_a_model = ["type", "paligemma_variant", "action_expert_variant", "pi05"];
    let whole =
        |part: &str, keys: &[&str]| keys.iter().all(|key| !config["architecture"][part][key].is_null());
    let architecture =
        whole("vision", &["hidden_size", "num_hidden_layers", "intermediate_size", "patch_size"])
            && whole("vlm", &["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"]);
    !architecture && names_a_model.iter().all(|key| config[key].is_null())
}

/// The configuration with all that follows from the weights, in lerobot's keys; `given` wins. Without a file, `given` is null.
pub(super) fn complete(
    folder: &Path,
    given: &Value,
    tensors: &BTreeMap<String, Stored>,
) -> Result<Value, CheckpointError> {
    let shapes = Shapes(tensors);
    let found = shapes.sizes().ok_or_else(|| {
        let message =
            "config.json is not there, and these weights are not pi0's: nothing follows from them".into();
        CheckpointError::problem(folder, message)
    })?;
    let mut config = json!({"type": found.kind});
    let mut wanted = Wanted::default();
    for (key, other, what, example) in [
        ("chunk_size", "action_horizon", "points of a chunk", 50),
        ("num_inference_steps", "num_steps", "denoising steps", 10),
    ] {
        match [&given[key], &given[other]].into_iter().find(|value| !value.is_null()) {
            Some(value) => config[key] = value.clone(),
            None => wanted.add(&[key], what, example),
        }
    }
    config["max_action_dim"] = json!(found.action_dim);
    config["max_state_dim"] = json!(found.state_dim);
    config["image_resolution"] = json!([found.image, found.image]);
    let given_architecture = &given["architecture"];
    let published = PolicyConfig::PI0;
    let vision_heads = given_architecture["vision"]["num_attention_heads"].as_u64();
    let vision_heads = vision_heads
        .or((found.vision_width == published.vision.width).then_some(published.vision.heads as u64));
    let head_dim =
        given_architecture["vlm"]["head_dim"].as_u64().map(|dim| dim as usize).filter(|dim| *dim > 0);
    let head_dim = head_dim.or((found.vlm_width == published.vlm.width).then_some(published.vlm.head_dim));
    if vision_heads.is_none() {
        wanted.add(
            &["architecture", "vision", "num_attention_heads"],
            "attention heads of the vision tower",
            2,
        );
    }
    if head_dim.is_none() {
        wanted.add(
            &["architecture", "vlm", "head_dim"],
            "size of an attention head of the language model",
            16,
        );
    }
    if let Some(message) = wanted.message(folder, given.is_null()) {
        return Err(CheckpointError::problem(folder, message));
    }
    let (vision_heads, head_dim) = (vision_heads.unwrap_or(1), head_dim.unwrap_or(1));
    config["architecture"] = json!({
        "vision": {
            "hidden_size": found.vision_width, "num_hidden_layers": found.vision_layers,
            "num_attention_heads": vision_heads, "intermediate_size": found.vision_mlp, "patch_size": found.patch,
        },
        "vlm": {
            "hidden_size": found.vlm_width, "num_hidden_layers": found.vlm_layers, "intermediate_size": found.vlm_mlp,
            "num_attention_heads": found.queries / head_dim, "num_key_value_heads": found.keys / head_dim,
            "head_dim": head_dim, "vocab_size": found.vocabulary,
        },
        "expert": { "hidden_size": found.expert_width, "intermediate_size": found.expert_mlp },
    });
    if let Some(given) = given.as_object() {
        let kept = given.iter().filter(|(key, _)| key.as_str() != "architecture");
        let merged =
            config.as_object_mut().map(|config| config.extend(kept.map(|(k, v)| (k.clone(), v.clone()))));
        debug_assert!(merged.is_some());
    }
    Ok(config)
}

/// What is asked for.
#[derive(Default)]
struct Wanted {
    said: Vec<String>,
    example: Value,
}

impl Wanted {
    fn add(&mut self, path: &[&str], what: &str, example: usize) {
        self.said.push(format!("{} ({what})", path.join(".")));
        let mut place = &mut self.example;
        for part in path {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[*part];
        }
        *place = json!(example);
    }

    fn message(&self, folder: &Path, without_file: bool) -> Option<String> {
        if self.said.is_empty() {
            return None;
        }
        let file = folder.join("config.json");
        let there = if without_file {
            "there is no config.json (openpi's PyTorch training writes none). The sizes follow from the weights, but not"
        } else {
            "config.json leaves the sizes to the weights, from which all follows but"
        };
        Some(format!(
            "{there} {}: write them into {}, such as {}",
            self.said.join(", "),
            file.display(),
            self.example
        ))
    }
}

/// The sizes that shapes of tensors show.
struct Sizes {
    kind: &'static str,
    vision_width: usize,
    vision_layers: usize,
    vision_mlp: usize,
    patch: usize,
    image: usize,
    vlm_width: usize,
    vlm_layers: usize,
    vlm_mlp: usize,
    queries: usize,
    keys: usize,
    vocabulary: usize,
    expert_width: usize,
    expert_mlp: usize,
    action_dim: usize,
    state_dim: usize,
}

struct Shapes<'a>(&'a BTreeMap<String, Stored>);

impl Shapes<'_> {
    fn sizes(&self) -> Option<Sizes> {
        let patch = self.dim(&format!("{VISION}embeddings.patch_embedding.weight"), 3)?;
        let patches = self.dim(&format!("{VISION}embeddings.position_embedding.weight"), 0)?;
        let action_dim = self.dim("action_in_proj.weight", 1)?;
        let state = self.dim("state_proj.weight", 1);
        Some(Sizes {
            kind: if state.is_none() && self.dim("time_mlp_in.weight", 0).is_some() { "pi05" } else { "pi0" },
            vision_width: self.dim(&format!("{VISION}embeddings.patch_embedding.weight"), 0)?,
            vision_layers: self.layers(&format!("{VISION}encoder.layers.")),
            vision_mlp: self.dim(&format!("{VISION}encoder.layers.0.mlp.fc1.weight"), 0)?,
            patch,
            image: patches.isqrt() * patch,
            vlm_width: self.dim(EMBEDDING, 1)?,
            vlm_layers: self.layers(&format!("{VLM}layers.")),
            vlm_mlp: self.dim(&format!("{VLM}layers.0.mlp.gate_proj.weight"), 0)?,
            queries: self.dim(&format!("{VLM}layers.0.self_attn.q_proj.weight"), 0)?,
            keys: self.dim(&format!("{VLM}layers.0.self_attn.k_proj.weight"), 0)?,
            vocabulary: self.dim(EMBEDDING, 0)?,
            expert_width: self.dim("action_in_proj.weight", 0)?,
            expert_mlp: self.dim(&format!("{EXPERT}layers.0.mlp.gate_proj.weight"), 0)?,
            action_dim,
            state_dim: state.unwrap_or(action_dim),
        })
    }

    fn dim(&self, key: &str, axis: usize) -> Option<usize> {
        self.0.get(key)?.shape.get(axis).copied()
    }

    /// One more than the largest number behind `prefix`.
    fn layers(&self, prefix: &str) -> usize {
        let number = |key: &String| key.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        self.0.keys().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
    }
}
