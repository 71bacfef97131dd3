//! A Gemma layer, as the language model (prefix) and the action expert (suffix) both have it. Called by both.

use super::config::GemmaConfig;
use crate::graph::builder::Added;
use crate::graph::{Activation, Attention, GraphBuilder, GraphError, ValueId};

const EPSILON: f32 = 1e-6;
/// Base of the rotary angles.
pub(super) const THETA: f64 = 10_000.0;

/// What a token sequence sees besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Context<'a> {
    /// Itself only, without its masked tokens.
    Masked(ValueId),
    /// A past key and value (rotated) without their masked tokens, then itself by block number.
    After { key: ValueId, value: ValueId, mask: ValueId, blocks: &'a [u32] },
}

/// What a layer gives: its output, and its own keys (after rotation) and values.
pub(super) struct LayerOutput {
    pub x: ValueId,
    pub key: ValueId,
    pub value: ValueId,
}

/// One layer, weights under `key` (`..layers.3.`): x `[tokens, width]`, rotary table `[tokens, head_dim]`.
///
/// `h = norm(x); x += o(attention(rotary(q(h)), rotary(k(h)), v(h))); x += down(gelu(gate(norm(x))) * up(norm(x)))`
pub(super) fn layer(
    b: &mut GraphBuilder,
    config: &GemmaConfig,
    key: &str,
    x: ValueId,
    table: ValueId,
    context: Context,
) -> Result<LayerOutput, GraphError> {
    let GemmaConfig { width, mlp, heads, kv_heads, head_dim, .. } = *config;

    let (attended, k, v) = b.scope("attn", |b| {
        let h = norm(b, "norm", x, &format!("{key}input_layernorm"), width)?;
        let project = |b: &mut GraphBuilder, name: &str, output: usize| {
            dense(b, name, h, &format!("{key}self_attn.{name}_proj"), width, output)
        };
        let q = project(b, "q", heads * head_dim)?;
        let k = project(b, "k", kv_heads * head_dim)?;
        let v = project(b, "v", kv_heads * head_dim)?;
        let q = b.rotary("q_rotary", q, table, heads)?;
        let k = b.rotary("k_rotary", k, table, kv_heads)?;
        let attention = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            sequences: 1,
            past: matches!(context, Context::After { .. }),
            masked: true,
            blocks: match context {
                Context::Masked(_) => Vec::new(),
                Context::After { blocks, .. } => blocks.to_vec(),
            },
        };
        let operands = match context {
            Context::Masked(mask) => vec![q, k, v, mask],
            Context::After { key, value, mask, .. } => vec![q, k, v, key, value, mask],
        };
        let heads_out = b.attention("softmax", attention, &operands)?;
        let out = dense(b, "out", heads_out, &format!("{key}self_attn.o_proj"), heads * head_dim, width)?;
        Ok::<_, GraphError>((out, k, v))
    })?;
    let x = b.add("attn.residual", x, attended)?;

    let fed = b.scope("mlp", |b| {
        let h = norm(b, "norm", x, &format!("{key}post_attention_layernorm"), width)?;
        let gate = dense(b, "gate", h, &format!("{key}mlp.gate_proj"), width, mlp)?;
        let gate = b.activate("gelu", Activation::GeluTanh, gate)?;
        let up = dense(b, "up", h, &format!("{key}mlp.up_proj"), width, mlp)?;
        let gated = b.multiply("gated", gate, up)?;
        dense(b, "down", gated, &format!("{key}mlp.down_proj"), mlp, width)
    })?;
    Ok(LayerOutput { x: b.add("mlp.residual", x, fed)?, key: k, value: v })
}

/// Gemma's norm with the checkpoint's `key.weight`.
pub(super) fn norm(b: &mut GraphBuilder, name: &str, x: ValueId, key: &str, width: usize) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[width]);
    b.rms_norm(name, x, weight, EPSILON)
}

/// `x w^T` with the checkpoint's `key.weight`; Gemma has no biases.
fn dense(b: &mut GraphBuilder, name: &str, x: ValueId, key: &str, input: usize, output: usize) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[output, input]);
    b.linear(name, x, weight, None)
}
