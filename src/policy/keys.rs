//! Where things stand in a checkpoint, in openpi's names. `checkpoint` strips what other writers put around them.

pub const VISION: &str = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.";
pub const PROJECTOR: &str = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.";
pub const VLM: &str = "paligemma_with_expert.paligemma.model.language_model.";
pub const EXPERT: &str = "paligemma_with_expert.gemma_expert.model.";
/// The language embedding, tied to the output head that pi0 does not use.
pub const EMBEDDING: &str = "paligemma_with_expert.paligemma.lm_head.weight";
/// The other name of [`EMBEDDING`].
pub const EMBEDDING_ALIAS: &str = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
/// In every checkpoint, and of no use to pi0.
pub const EXPERT_HEAD: &str = "paligemma_with_expert.gemma_expert.lm_head.weight";
