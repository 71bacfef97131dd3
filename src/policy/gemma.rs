//! A Gemma layer, as the language model (prefix) and the action expert (suffix) both have it. Called by both.

use super::config::GemmaConfig;
use crate::graph::builder::Added;
use crate::graph::{Activation, Attention, GraphBuilder, GraphError, Op, ValueId};

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

/// What the norms of an expert's layer are conditioned on (adaRMS): row `step` of `times` `[steps, width]`, which is made of
/// the time of a step. Every step's modulation is a row of one constant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub times: ValueId,
    pub step: usize,
    pub clean: Option<Clean>,
}

/// Points that are given, and so at the end of the flow, whatever the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clean {
    /// `[points, 1]`: 1 for those that are given, else 0.
    pub weights: ValueId,
    /// How many times there are before theirs.
    pub times: usize,
}

/// What a norm gives, and what the residual after it multiplies with before it adds.
pub(super) struct Normed {
    pub x: ValueId,
    pub gate: Option<ValueId>,
}

/// What a layer gives: its output, and its own keys (after rotation) and values.
pub(super) struct LayerOutput {
    pub x: ValueId,
    pub key: ValueId,
    pub value: ValueId,
}

/// One layer, weights under `key` (`..layers.3.`): x `[tokens, width]`, rotary table `[tokens, head_dim]`.
///
/// `h = norm(x); x += o(attention(rotary(q(h)), rotary(k(h)), v(h))); x += down(gelu(gate(norm(x))) * up(norm(x)))`;
/// under a `condition` the norms' gates multiply what is added.
pub(super) fn layer(
    b: &mut GraphBuilder,
    config: &GemmaConfig,
    key: &str,
    x: ValueId,
    table: ValueId,
    context: Context,
    condition: Option<Condition>,
) -> Result<LayerOutput, GraphError> {
    let GemmaConfig { width, mlp, heads, kv_heads, head_dim, .. } = *config;

    let (attended, gate, k, v) = b.scope("attn", |b| {
        let Normed { x: h, gate } = norm(b, "norm", x, &format!("{key}input_layernorm"), width, condition)?;
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
        Ok::<_, GraphError>((out, gate, k, v))
    })?;
    let x = residual(b, "attn", x, attended, gate)?;

    let (fed, gate) = b.scope("mlp", |b| {
        let Normed { x: h, gate: residual_gate } =
            norm(b, "norm", x, &format!("{key}post_attention_layernorm"), width, condition)?;
        let gate = dense(b, "gate", h, &format!("{key}mlp.gate_proj"), width, mlp)?;
        let gate = b.activate("gelu", Activation::GeluTanh, gate)?;
        let up = dense(b, "up", h, &format!("{key}mlp.up_proj"), width, mlp)?;
        let gated = b.multiply("gated", gate, up)?;
        let down = dense(b, "down", gated, &format!("{key}mlp.down_proj"), mlp, width)?;
        Ok::<_, GraphError>((down, residual_gate))
    })?;
    Ok(LayerOutput { x: residual(b, "mlp", x, fed, gate)?, key: k, value: v })
}

/// `x + y`, or `x + y * gate`.
fn residual(b: &mut GraphBuilder, part: &str, x: ValueId, y: ValueId, gate: Option<ValueId>) -> Added {
    let y = match gate {
        Some(gate) => b.multiply(&format!("{part}.modulated"), y, gate)?,
        None => y,
    };
    b.add(&format!("{part}.residual"), x, y)
}

/// Gemma's norm with the checkpoint's `key.weight`; under a `condition`, adaRMS with its `key.dense`:
/// `scale, shift, gate = dense(condition)`, `x_hat * (1 + scale) + shift`.
pub(super) fn norm(
    b: &mut GraphBuilder,
    name: &str,
    x: ValueId,
    key: &str,
    width: usize,
    condition: Option<Condition>,
) -> Result<Normed, GraphError> {
    let Some(Condition { times, step, clean }) = condition else {
        let weight = b.weight(&format!("{key}.weight"), &[width]);
        return Ok(Normed { x: b.rms_norm(name, x, weight, EPSILON)?, gate: None });
    };
    let inputs = b.shape(times)[1];
    let weight = b.weight(&format!("{key}.dense.weight"), &[3 * width, inputs]);
    let bias = b.weight(&format!("{key}.dense.bias"), &[3 * width]);
    // Of all steps at once: the same node in every step.
    let all = b.exact_linear(&format!("{name}.dense"), times, weight, bias)?;
    let row = b.rows(&format!("{name}.step"), all, step, step + 1)?;
    let clean = match clean {
        Some(Clean { weights, times }) => {
            Some((b.rows(&format!("{name}.clean"), all, times, times + 1)?, weights))
        }
        None => None,
    };
    let mut part = |what: &str, index: usize| {
        let mut part = |name: String, row| b.columns(&name, row, index * width, (index + 1) * width);
        let name = format!("{name}.{what}");
        let of_step = part(name.clone(), row)?;
        let Some((row, weights)) = clean else { return Ok(of_step) };
        let of_clean = part(format!("{name}_clean"), row)?;
        b.add_node(&format!("{name}_given"), Op::Choose, &[of_clean, of_step, weights])
    };
    let (scale, shift, gate) = (part("scale", 0)?, part("shift", 1)?, part("gate", 2)?);
    let x = b.modulated_norm(name, x, scale, shift, EPSILON)?;
    Ok(Normed { x, gate: Some(gate) })
}

/// `x w^T` with the checkpoint's `key.weight`; Gemma has no biases.
fn dense(b: &mut GraphBuilder, name: &str, x: ValueId, key: &str, input: usize, output: usize) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[output, input]);
    b.linear(name, x, weight, None)
}
