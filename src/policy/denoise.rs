//! The act graph: from noise to actions along the flow, all Euler steps unrolled. Called by [`super::PolicyGraphs`].

use super::config::PolicyConfig;
use super::gemma::{Clean, Condition};
use super::intermediates::Intermediates;
use super::{
    ACTIONS, Continuation, NOISE, PREFIX_WEIGHTS, PREVIOUS_CHUNK, PrefixCache, STATE, StateInput, gemma,
    suffix,
};
use crate::graph::{GraphBuilder, GraphError, HostTensor, Op, TensorType, ValueId};

pub(super) fn build(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    cameras: usize,
    intermediates: &Intermediates,
) -> Result<(), GraphError> {
    let prefix = PrefixCache::find(b, config, cameras);
    let state = match config.variant.state {
        StateInput::Token => Some(b.input(STATE, TensorType::f32([1, config.state_dim]))),
        StateInput::Prompt { .. } | StateInput::Nowhere => None,
    };
    let noise = b.input(NOISE, TensorType::f32([config.action_horizon, config.action_dim]));
    let before = Before::find(b, config);
    let given = before.filter(|_| matches!(config.continuation, Continuation::Given { .. }));
    // Given points are clean from the start.
    let mut x_t = match given {
        Some(Before { chunk, weights }) => b.add_node("given", Op::Choose, &[chunk, noise, weights])?,
        None => noise,
    };

    // Nothing here depends on x_t, so it stands before the loop.
    let state_token = state.map(|state| suffix::embed_state(b, config, state)).transpose()?;
    let op = Op::PositionsAfter { rows: config.suffix_tokens() };
    let positions = b.add_node("suffix_positions", op, &[prefix.mask])?;
    let op = Op::RotaryTable { head_dim: config.expert.head_dim, theta: gemma::THETA };
    let table = b.add_node("rotary_table", op, &[positions])?;
    let blocks = suffix::blocks(config);

    let dt = -1.0 / config.denoising_steps as f64;
    let times: Vec<f32> = (0..config.denoising_steps).map(|step| (1.0 + step as f64 * dt) as f32).collect();
    // Where points are given, the last is theirs: they are at the end of the flow.
    let clean = given.map(|before| Clean { weights: before.weights, times: times.len() });
    let embedded: Vec<f32> = times.iter().copied().chain(clean.map(|_| 0.0)).collect();
    let conditions = suffix::embed_times(b, config, &embedded)?;
    for (step, &time) in times.iter().enumerate() {
        if intermediates.wants(&format!("time_{step}")) {
            let value = b.constant("time", &[1], HostTensor::F32(vec![time]));
            b.output(&format!("time_{step}"), value);
        }
        intermediates.offer(b, &format!("x_t_{step}"), x_t);
        let condition = conditions.map(|times| Condition { times, step, clean });
        if let (Some(condition), name) = (condition, format!("adarms_cond_{step}"))
            && intermediates.wants(&name)
        {
            let row = b.rows(&name, condition.times, step, step + 1)?;
            b.output(&name, row);
        }
        x_t = b.scope(&format!("steps.{step}"), |b| {
            let action_tokens = suffix::embed_actions(b, config, x_t, time, clean)?;
            let tokens: Vec<ValueId> = state_token.into_iter().chain([action_tokens]).collect();
            let tokens = b.concat("suffix", &tokens, 0)?;
            intermediates.offer(b, &format!("suffix_embs_{step}"), tokens);
            let out =
                b.scope("expert", |b| suffix::expert(b, config, tokens, table, condition, &prefix, &blocks))?;
            let v_t = suffix::velocity(b, config, out, intermediates, step)?;
            intermediates.offer(b, &format!("v_t_{step}"), v_t);
            let next = b.add_node("euler_step", Op::EulerStep { dt: dt as f32 }, &[x_t, v_t])?;
            match (config.continuation, before) {
                (Continuation::Guided { most }, Some(Before { chunk, weights })) => {
                    let t = 1.0 + step as f64 * dt;
                    let strength = (-dt * Continuation::guidance(most, t)) as f32;
                    let op = Op::Guide { ahead: (-t / dt) as f32, strength };
                    b.add_node("euler_step.guided", op, &[x_t, next, chunk, weights])
                }
                (Continuation::Given { .. }, Some(Before { chunk, weights })) => {
                    b.add_node("euler_step.given", Op::Choose, &[chunk, next, weights])
                }
                _ => Ok(next),
            }
        })?;
    }
    b.output(ACTIONS, x_t);
    Ok(())
}

/// The chunk before `[horizon, action_dim]`, and how much its points count `[horizon, 1]`.
#[derive(Clone, Copy)]
struct Before {
    chunk: ValueId,
    weights: ValueId,
}

impl Before {
    /// The inputs of a model that continues it.
    fn find(b: &mut GraphBuilder, config: &PolicyConfig) -> Option<Self> {
        let horizon = config.action_horizon;
        (config.continuation != Continuation::Free).then(|| Self {
            chunk: b.input(PREVIOUS_CHUNK, TensorType::f32([horizon, config.action_dim])),
            weights: b.input(PREFIX_WEIGHTS, TensorType::f32([horizon, 1])),
        })
    }
}
