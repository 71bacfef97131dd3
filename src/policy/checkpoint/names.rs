//! By which name the graphs know a tensor, whatever was wrapped around the model when it was saved. Called when a checkpoint is
//! opened.

use crate::policy::keys::{EMBEDDING, EMBEDDING_ALIAS, EXPERT_HEAD};

/// What `torch.compile`, DDP, FSDP and activation checkpointing put into the names of whatever they wrap, at any depth.
const WRAPPERS: [&str; 4] = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// What a policy may stand in as a whole.
const OUTER: [&str; 2] = ["policy.", "model."];

/// lerobot up to 0.3 had its statistics as parts of the model.
const STATISTICS: [&str; 3] = ["normalize_inputs.", "normalize_targets.", "unnormalize_outputs."];

/// How transformers before 4.52, and so lerobot up to 0.3, called the parts of PaliGemma, and what they are called now.
const FORMER: [(&str, &str); 4] = [
    ("paligemma_with_expert.paligemma.vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower."),
    (
        "paligemma_with_expert.paligemma.multi_modal_projector.",
        "paligemma_with_expert.paligemma.model.multi_modal_projector.",
    ),
    (
        "paligemma_with_expert.paligemma.language_model.model.",
        "paligemma_with_expert.paligemma.model.language_model.",
    ),
    ("paligemma_with_expert.paligemma.language_model.lm_head.", "paligemma_with_expert.paligemma.lm_head."),
];

/// What a tensor of a checkpoint's file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A weight, by the name that the graphs know.
    Weight(String),
    /// A column of statistics, which `observe` reads.
    Statistics,
    /// In every checkpoint, and of no use to the policy.
    Unused,
}

/// What the tensor `key` is.
pub(super) fn meaning(key: &str) -> Meaning {
    let parts: Vec<&str> = key.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let mut name = parts.join(".");
    while let Some(inner) = OUTER.iter().find_map(|outer| name.strip_prefix(outer)) {
        name = inner.to_owned();
    }
    if STATISTICS.iter().any(|prefix| name.starts_with(prefix)) {
        return Meaning::Statistics;
    }
    if let Some((former, present)) = FORMER.iter().find(|(former, _)| name.starts_with(former)) {
        name = name.replacen(former, present, 1);
    }
    match name.as_str() {
        EXPERT_HEAD => Meaning::Unused,
        EMBEDDING_ALIAS => Meaning::Weight(EMBEDDING.into()),
        _ => Meaning::Weight(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "paligemma_with_expert.gemma_expert.model.layers.0.mlp.up_proj.weight";

    #[test]
    fn wrappers_are_stripped_wherever_they_stand() {
        for key in [
            LAYER.to_owned(),
            format!("model.{LAYER}"),
            format!("_orig_mod.{LAYER}"),
            format!("module._orig_mod.model.{LAYER}"),
            format!("_orig_mod.module.{LAYER}"),
            format!("policy.model.{LAYER}"),
            LAYER.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
            LAYER.replace("gemma_expert.", "gemma_expert._orig_mod."),
        ] {
            assert_eq!(meaning(&key), Meaning::Weight(LAYER.into()), "{key}");
        }
    }

    #[test]
    fn statistics_and_unused_tensors_are_no_weights() {
        for key in [
            "normalize_inputs.buffer_observation_state.mean",
            "model.normalize_targets.buffer_action.std",
            "_orig_mod.unnormalize_outputs.so100_buffer_action.std",
        ] {
            assert_eq!(meaning(key), Meaning::Statistics, "{key}");
        }
        assert_eq!(meaning(&format!("_orig_mod.{EXPERT_HEAD}")), Meaning::Unused);
    }

    #[test]
    fn names_of_former_versions_are_known() {
        for (former, present) in [
            (
                "model.paligemma_with_expert.paligemma.vision_tower.vision_model.post_layernorm.bias",
                "paligemma_with_expert.paligemma.model.vision_tower.vision_model.post_layernorm.bias",
            ),
            (
                "model.paligemma_with_expert.paligemma.language_model.model.norm.weight",
                "paligemma_with_expert.paligemma.model.language_model.norm.weight",
            ),
            ("model.paligemma_with_expert.paligemma.language_model.model.embed_tokens.weight", EMBEDDING),
            ("model.paligemma_with_expert.paligemma.language_model.lm_head.weight", EMBEDDING),
        ] {
            assert_eq!(meaning(former), Meaning::Weight(present.into()), "{former}");
        }
    }
}
