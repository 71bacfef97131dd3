//! A checkpoint's tensors beside those that its configuration needs: every difference, and what may be behind them all. Called
//! when a checkpoint is opened.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::{Stored, format_of};
use crate::policy::WeightSpec;

/// Every missing, unexpected and wrongly stored tensor.
pub(super) fn differences(specs: &[WeightSpec], tensors: &BTreeMap<String, Stored>) -> Vec<String> {
    let mut problems = Vec::new();
    for spec in specs {
        match tensors.get(&spec.key) {
            None => problems.push(format!("'{}' {:?} is missing", spec.key, spec.shape)),
            Some(stored) if stored.shape != spec.shape => problems.push(format!(
                "'{}' is {:?}, but config.json asks for {:?}",
                spec.key, stored.shape, spec.shape
            )),
            Some(stored) if format_of(stored.dtype).is_none() => {
                problems.push(format!("'{}' is stored as {}, not F32, F16 or BF16", spec.key, stored.dtype));
            }
            Some(_) => {}
        }
    }
    let expected: BTreeSet<&str> = specs.iter().map(|spec| spec.key.as_str()).collect();
    for key in tensors.keys().filter(|key| !expected.contains(key.as_str())) {
        problems.push(format!("'{key}' is not part of the model that config.json describes"));
    }
    problems
}

/// What may be behind the differences; nothing where a single tensor is amiss.
pub(super) fn guess(specs: &[WeightSpec], tensors: &BTreeMap<String, Stored>) -> Option<String> {
    let has = |part: &str| tensors.keys().any(|key| key.contains(part));
    let missing: Vec<&WeightSpec> = specs.iter().filter(|spec| !tensors.contains_key(&spec.key)).collect();
    if has("lora_") || has(".base_layer.") {
        return Some(
            "LoRA weights were saved beside those that they change: merge them (peft's merge_and_unload) and save again".into(),
        );
    }
    if has("_flat_param") || has("flat_param_") {
        return Some(
            "FSDP's flattened parameters: save with StateDictType.FULL_STATE_DICT, which puts them together again"
                .into(),
        );
    }
    let quantized = |stored: &Stored| {
        matches!(stored.dtype, Dtype::U8 | Dtype::I8) || stored.dtype.to_string().starts_with("F8")
    };
    if has(".absmax") || has("quant_map") || has("qweight") || has(".SCB") || tensors.values().any(quantized)
    {
        return Some("the weights are quantised: use those in bf16, f16 or f32".into());
    }
    if has("PaliGemma") || has("params/") {
        return Some("JAX's names: convert it with openpi's examples/convert_jax_model_to_pytorch.py".into());
    }
    if has("vlm_with_expert.") {
        return Some("this is a SmolVLA, not a pi0".into());
    }
    match (has("action_time_mlp_in."), tensors.keys().any(|key| key.starts_with("time_mlp_in."))) {
        (false, true) if missing.iter().any(|spec| spec.key.starts_with("state_proj.")) => {
            return Some("these are the weights of a pi0.5, and config.json says pi0".into());
        }
        (true, false) if missing.iter().any(|spec| spec.key.starts_with("time_mlp_in.")) => {
            return Some("these are the weights of a pi0, and config.json says pi0.5".into());
        }
        _ => {}
    }
    if let Some(prefix) = missing.iter().find_map(|spec| prefix_of(&spec.key, tensors)) {
        return Some(format!(
            "the names have '{prefix}' in front, which nothing known puts there: take it off"
        ));
    }
    if missing.len() == specs.len() {
        return Some("these are not pi0's weights at all".into());
    }
    let other_size = specs
        .iter()
        .filter(|spec| tensors.get(&spec.key).is_some_and(|stored| stored.shape != spec.shape))
        .count();
    if other_size > 8 {
        return Some("config.json describes a model of another size (paligemma_variant, action_expert_variant, architecture)".into());
    }
    let unknown = tensors.len() + missing.len() > specs.len();
    (missing.len() > 8 && !unknown).then(|| {
        "only a part of the model was saved: a shard without its index, or only what was trained".into()
    })
}

/// What stands in front of a name that would fit otherwise.
fn prefix_of(expected: &str, tensors: &BTreeMap<String, Stored>) -> Option<String> {
    let inside = |key: &String| Some(key.strip_suffix(expected)?.to_owned());
    tensors.keys().find_map(inside).filter(|prefix| prefix.ends_with('.'))
}
