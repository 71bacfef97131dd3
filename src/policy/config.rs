//! The model's sizes: what is published, smaller ones of ours, and what no model has. Called by everything that builds graphs.

use super::continuation::Continuation;
use super::variant::Variant;

/// What a weight in the file stands behind need only be possible: a wrong number is found when the weights are compared.
const LARGEST_WIDTH: usize = 1 << 20;
// What no weight stands behind must be bounded here, for the model is built and memory taken as these say. Each limit is
// many times what any pi0 has.
/// Published: 27. The list of weights to compare grows with it.
const MOST_LAYERS: usize = 256;
/// Published: 224.
const LARGEST_IMAGE: usize = 4096;
/// Of one image (published: 256) or of the prompt (48, 200). Attention takes memory by its square.
const MOST_TOKENS: usize = 4096;
/// Published: 50. Attention takes memory by its square.
const LONGEST_CHUNK: usize = 1024;
/// Published: 10. The graph has every step in it. The parameter `denoise_steps` has the same limit.
const MOST_STEPS: usize = 1000;

/// Sizes of a transformer stack of the Gemma family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmaConfig {
    pub width: usize,
    pub layers: usize,
    pub mlp: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Sizes of the SigLIP vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionConfig {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp: usize,
    pub patch: usize,
    /// Side of the square image, pixels.
    pub image: usize,
}

impl VisionConfig {
    /// Tokens that one image becomes.
    pub fn tokens(&self) -> usize {
        (self.image / self.patch).pow(2)
    }
}

/// Everything about a model that is not a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyConfig {
    pub variant: Variant,
    pub vision: VisionConfig,
    pub vlm: GemmaConfig,
    pub expert: GemmaConfig,
    pub vocabulary: usize,
    /// Points of an action chunk.
    pub action_horizon: usize,
    pub action_dim: usize,
    pub state_dim: usize,
    /// Euler steps from noise to actions.
    pub denoising_steps: usize,
    /// Prompt tokens, padding included.
    pub prompt_tokens: usize,
    /// How a chunk continues the one before: as the checkpoint was trained, until somebody wants it otherwise.
    pub continuation: Continuation,
}

impl PolicyConfig {
    /// pi0 as published: PaliGemma-3B with a 300M action expert.
    pub const PI0: Self = Self {
        variant: Variant::PI0,
        vision: VisionConfig { width: 1152, layers: 27, heads: 16, mlp: 4304, patch: 14, image: 224 },
        vlm: GemmaConfig { width: 2048, layers: 18, mlp: 16384, heads: 8, kv_heads: 1, head_dim: 256 },
        expert: GemmaConfig { width: 1024, layers: 18, mlp: 4096, heads: 8, kv_heads: 1, head_dim: 256 },
        vocabulary: 257_152,
        action_horizon: 50,
        action_dim: 32,
        state_dim: 32,
        denoising_steps: 10,
        prompt_tokens: Variant::PI0.prompt_tokens,
        continuation: Continuation::Free,
    };

    /// Small enough for real time on two cores, large enough to mean something.
    pub const MINI: Self = Self {
        vision: VisionConfig { width: 192, layers: 4, heads: 3, mlp: 768, patch: 14, image: 224 },
        vlm: GemmaConfig { width: 256, layers: 4, mlp: 1024, heads: 4, kv_heads: 1, head_dim: 64 },
        expert: GemmaConfig { width: 128, layers: 4, mlp: 512, heads: 4, kv_heads: 1, head_dim: 64 },
        vocabulary: 2048,
        ..Self::PI0
    };

    /// Between the two: small images, and half the width.
    pub const SMALL: Self = Self {
        vision: VisionConfig { width: 128, layers: 4, heads: 4, mlp: 384, patch: 14, image: 112 },
        vlm: GemmaConfig { width: 160, layers: 4, mlp: 480, heads: 8, kv_heads: 1, head_dim: 32 },
        expert: GemmaConfig { width: 128, layers: 4, mlp: 384, heads: 8, kv_heads: 1, head_dim: 32 },
        vocabulary: 2048,
        ..Self::PI0
    };

    /// For tests: the sizes of the golden data.
    pub const TINY: Self = Self {
        vision: VisionConfig { width: 64, layers: 2, heads: 2, mlp: 136, patch: 14, image: 56 },
        vlm: GemmaConfig { width: 64, layers: 2, mlp: 128, heads: 4, kv_heads: 1, head_dim: 16 },
        expert: GemmaConfig { width: 32, layers: 2, mlp: 64, heads: 4, kv_heads: 1, head_dim: 16 },
        vocabulary: 320,
        ..Self::PI0
    };

    /// pi0.5 as published: the same sizes.
    pub const PI05: Self = Self::PI0.of(Variant::PI05);
    pub const PI05_MINI: Self = Self::MINI.of(Variant::PI05);
    pub const PI05_TINY: Self = Self::TINY.of(Variant::PI05);

    /// The same sizes as another member of the family has them.
    const fn of(self, variant: Variant) -> Self {
        Self { variant, prompt_tokens: variant.prompt_tokens, ..self }
    }

    /// Length of the prefix: image tokens of all cameras, then the prompt.
    pub fn prefix_tokens(&self, cameras: usize) -> usize {
        cameras * self.vision.tokens() + self.prompt_tokens
    }

    /// Length of the suffix: the state's token if it has one, then one token per action.
    pub fn suffix_tokens(&self) -> usize {
        self.variant.state_tokens() + self.action_horizon
    }

    /// The same model for images of `side` x `side` pixels.
    pub fn with_image(mut self, side: usize) -> Result<Self, String> {
        self.vision.image = side;
        self.checked()
    }

    /// Refuses sizes that no model has, before anything is computed from them.
    pub(super) fn checked(self) -> Result<Self, String> {
        let Self { vision, vlm, expert, .. } = self;
        for (name, size, limit) in [
            ("vision.hidden_size", vision.width, LARGEST_WIDTH),
            ("vision.num_hidden_layers", vision.layers, MOST_LAYERS),
            ("vision.num_attention_heads", vision.heads, LARGEST_WIDTH),
            ("vision.intermediate_size", vision.mlp, LARGEST_WIDTH),
            ("vision.patch_size", vision.patch, LARGEST_IMAGE),
            ("image_resolution", vision.image, LARGEST_IMAGE),
            ("vlm.hidden_size", vlm.width, LARGEST_WIDTH),
            ("vlm.num_hidden_layers", vlm.layers, MOST_LAYERS),
            ("vlm.intermediate_size", vlm.mlp, LARGEST_WIDTH),
            ("vlm.num_attention_heads", vlm.heads, LARGEST_WIDTH),
            ("vlm.num_key_value_heads", vlm.kv_heads, LARGEST_WIDTH),
            ("vlm.head_dim", vlm.head_dim, LARGEST_WIDTH),
            ("vlm.vocab_size", self.vocabulary, LARGEST_WIDTH),
            ("expert.hidden_size", expert.width, LARGEST_WIDTH),
            ("expert.intermediate_size", expert.mlp, LARGEST_WIDTH),
            ("chunk_size", self.action_horizon, LONGEST_CHUNK),
            ("max_action_dim", self.action_dim, LARGEST_WIDTH),
            ("max_state_dim", self.state_dim, LARGEST_WIDTH),
            ("num_inference_steps", self.denoising_steps, MOST_STEPS),
            ("tokenizer_max_length", self.prompt_tokens, MOST_TOKENS),
        ] {
            if !(1..=limit).contains(&size) {
                return Err(format!("'{name}' is {size}; it must be 1 to {limit}"));
            }
        }
        for (name, size, part, divisor) in [
            ("image_resolution", vision.image, "vision.patch_size", vision.patch),
            ("vision.hidden_size", vision.width, "vision.num_attention_heads", vision.heads),
            ("vlm.num_attention_heads", vlm.heads, "vlm.num_key_value_heads", vlm.kv_heads),
            ("vlm.head_dim", vlm.head_dim, "2", 2),
            ("expert.hidden_size", expert.width, "2", 2),
        ] {
            if size % divisor != 0 {
                return Err(format!("'{name}' ({size}) must be a multiple of {part} ({divisor})"));
            }
        }
        if vision.tokens() > MOST_TOKENS {
            return Err(format!(
                "'image_resolution' ({}) and vision.patch_size ({}) make {} tokens of an image; it must be at most {MOST_TOKENS}",
                vision.image,
                vision.patch,
                vision.tokens()
            ));
        }
        if let Continuation::Given { most } = self.continuation
            && most >= self.action_horizon
        {
            return Err(format!(
                "'rtc_training_max_delay' is {most}; it must be less than the {} points of a chunk",
                self.action_horizon
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_can_be_made_for_other_images() {
        let tokens = |side| PolicyConfig::TINY.with_image(side).map(|config| config.vision.tokens());
        assert_eq!(tokens(224), Ok(256));
        assert!(tokens(100).unwrap_err().contains("must be a multiple of vision.patch_size (14)"));
    }
}
