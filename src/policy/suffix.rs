//! The suffix tokens (the state where it is one of them, then noisy actions) and the action expert over them, with the time
//! that both are at. Called by `denoise`.

use super::config::PolicyConfig;
use super::gemma::{self, Clean, Condition, Context};
use super::intermediates::Intermediates;
use super::keys::EXPERT;
use super::{PrefixCache, TimeInput};
use crate::graph::builder::Added;
use crate::graph::{Activation, GraphBuilder, GraphError, HostTensor, Op, ValueId};

/// Shortest and longest period of the time embedding.
const MIN_PERIOD: f64 = 4e-3;
const MAX_PERIOD: f64 = 4.0;

/// The state as the suffix's first token: `[1, state_dim]` -> `[1, width]`.
pub(super) fn embed_state(b: &mut GraphBuilder, config: &PolicyConfig, state: ValueId) -> Added {
    exact_dense(b, "state_proj", state, "state_proj", config.state_dim, config.expert.width)
}

/// Noisy actions x_t `[horizon, action_dim]` at `time` -> `[horizon, width]`: `action_in_proj(x_t)`, joined with the time
/// where that is an input of theirs.
pub(super) fn embed_actions(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    x_t: ValueId,
    time: f32,
    clean: Option<Clean>,
) -> Added {
    let actions =
        exact_dense(b, "action_in_proj", x_t, "action_in_proj", config.action_dim, config.expert.width)?;
    match config.variant.time {
        TimeInput::Actions => join_time(b, config, actions, time, clean),
        TimeInput::Norms => Ok(actions),
    }
}

/// `mlp_out(silu(mlp_in([actions, embedding(time)])))`
fn join_time(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    actions: ValueId,
    time: f32,
    clean: Option<Clean>,
) -> Added {
    let width = config.expert.width;
    let embedding = |b: &mut GraphBuilder, name: &str, time: f32| {
        b.constant(name, &[1, width], HostTensor::F32(time_embedding(time, width)))
    };
    let time = embedding(b, "time_embedding", time);
    let time = match clean {
        None => b.add_node("time_repeated", Op::Repeat { rows: config.action_horizon }, &[time])?,
        Some(Clean { weights, .. }) => {
            let end = embedding(b, "clean_time_embedding", 0.0);
            b.add_node("time_given", Op::Choose, &[end, time, weights])?
        }
    };
    let both = b.concat("action_time", &[actions, time], 1)?;
    let hidden = exact_dense(b, "action_time_mlp_in", both, "action_time_mlp_in", 2 * width, width)?;
    let hidden = b.activate("silu", Activation::Silu, hidden)?;
    exact_dense(b, "action_time_mlp_out", hidden, "action_time_mlp_out", width, width)
}

/// What the expert's norms are conditioned on, a row for each of `times`, where the time is an input of theirs:
/// `silu(time_mlp_out(silu(time_mlp_in(embedding(time)))))` `[times, width]`. All times are known, so this is constant.
pub(super) fn embed_times(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    times: &[f32],
) -> Result<Option<ValueId>, GraphError> {
    if config.variant.time != TimeInput::Norms {
        return Ok(None);
    }
    let width = config.expert.width;
    let embeddings = times.iter().flat_map(|&time| time_embedding(time, width)).collect();
    let mut x = b.constant("time_embeddings", &[times.len(), width], HostTensor::F32(embeddings));
    for key in ["time_mlp_in", "time_mlp_out"] {
        x = exact_dense(b, key, x, key, width, width)?;
        x = b.activate(&format!("{key}_silu"), Activation::Silu, x)?;
    }
    Ok(Some(x))
}

/// `x w^T + b` with the checkpoint's `key.weight` and `key.bias`, in all bits that the device has: the reference computes
/// these projections in f32, whatever it computes the rest in.
fn exact_dense(
    b: &mut GraphBuilder,
    name: &str,
    x: ValueId,
    key: &str,
    input: usize,
    output: usize,
) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[output, input]);
    let bias = b.weight(&format!("{key}.bias"), &[output]);
    b.exact_linear(name, x, weight, bias)
}

/// Sines then cosines of `2 pi t / period`, periods spaced geometrically from 4e-3 to 4.0, computed in f64
/// (openpi `create_sinusoidal_pos_embedding`).
fn time_embedding(time: f32, width: usize) -> Vec<f32> {
    let half = width / 2;
    let angle = |index: usize| {
        let fraction = if half > 1 { index as f64 / (half - 1) as f64 } else { 0.0 };
        let period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD).powf(fraction);
        1.0 / period * 2.0 * std::f64::consts::PI * f64::from(time)
    };
    let sines = (0..half).map(|index| angle(index).sin() as f32);
    let cosines = (0..half).map(|index| angle(index).cos() as f32);
    sines.chain(cosines).collect()
}

/// Block numbers of the suffix: the state sees itself, the actions see the state and each other. None where there are only
/// actions, which see each other.
pub(super) fn blocks(config: &PolicyConfig) -> Vec<u32> {
    match config.variant.state_tokens() {
        0 => Vec::new(),
        before => {
            std::iter::repeat_n(0, before).chain(std::iter::repeat_n(1, config.action_horizon)).collect()
        }
    }
}

/// The action expert over the suffix tokens x `[suffix_tokens, width]`, after its last norm.
pub(super) fn expert(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    mut x: ValueId,
    table: ValueId,
    condition: Option<Condition>,
    prefix: &PrefixCache,
    blocks: &[u32],
) -> Added {
    for index in 0..config.expert.layers {
        let (key, value) = (prefix.keys[index], prefix.values[index]);
        let context = Context::After { key, value, mask: prefix.mask, blocks };
        let layer = b.scope(&format!("layers.{index}"), |b| {
            gemma::layer(b, &config.expert, &format!("{EXPERT}layers.{index}."), x, table, context, condition)
        })?;
        x = layer.x;
    }
    // Nothing follows that its gate would be for.
    Ok(gemma::norm(b, "norm", x, &format!("{EXPERT}norm"), config.expert.width, condition)?.x)
}

/// The velocity of the flow at x_t: the expert's action tokens through `action_out_proj`.
pub(super) fn velocity(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    out: ValueId,
    intermediates: &Intermediates,
    step: usize,
) -> Result<ValueId, GraphError> {
    intermediates.offer(b, &format!("expert_out_{step}"), out);
    let actions = b.rows("action_tokens", out, config.variant.state_tokens(), config.suffix_tokens())?;
    exact_dense(b, "action_out_proj", actions, "action_out_proj", config.expert.width, config.action_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_embedding_starts_at_the_shortest_period() {
        let embedding = time_embedding(1e-3, 8);
        // A quarter of the shortest period: sine 1, cosine 0.
        assert!((embedding[0] - 1.0).abs() < 1e-6 && embedding[4].abs() < 1e-6);
        // The longest period is a thousand times as long.
        assert!((f64::from(embedding[3]) - (std::f64::consts::FRAC_PI_2 * 1e-3).sin()).abs() < 1e-7);
    }

    #[test]
    fn the_state_does_not_see_the_actions() {
        let blocks = blocks(&PolicyConfig { action_horizon: 3, ..PolicyConfig::TINY });
        assert_eq!(blocks, [0, 1, 1, 1]);
        assert!(super::blocks(&PolicyConfig::PI05_TINY).is_empty(), "actions alone see each other");
    }
}
