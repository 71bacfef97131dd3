//! The act graph: from noise to actions along the flow, all Euler steps unrolled. Called by [`super::PolicyGraphs`].

use super::config::PolicyConfig;
use super::gemma::Condition;
use super::intermediates::Intermediates;
use super::{ACTIONS, NOISE, PrefixCache, STATE, StateInput, gemma, suffix};
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
    let mut x_t = b.input(NOISE, TensorType::f32([config.action_horizon, config.action_dim]));

    // Nothing here depends on x_t, so it stands before the loop.
    let state_token = state.map(|state| suffix::embed_state(b, config, state)).transpose()?;
    let op = Op::PositionsAfter { rows: config.suffix_tokens() };
    let positions = b.add_node("suffix_positions", op, &[prefix.mask])?;
    let op = Op::RotaryTable { head_dim: config.expert.head_dim, theta: gemma::THETA };
    let table = b.add_node("rotary_table", op, &[positions])?;
    let blocks = suffix::blocks(config);

    let dt = -1.0 / config.denoising_steps as f64;
    let times: Vec<f32> = (0..config.denoising_steps).map(|step| (1.0 + step as f64 * dt) as f32).collect();
    let conditions = suffix::embed_times(b, config, &times)?;
    for (step, &time) in times.iter().enumerate() {
        if intermediates.wants(&format!("time_{step}")) {
            let value = b.constant("time", &[1], HostTensor::F32(vec![time]));
            b.output(&format!("time_{step}"), value);
        }
        intermediates.offer(b, &format!("x_t_{step}"), x_t);
        let condition = conditions.map(|times| Condition { times, step });
        if let (Some(condition), name) = (condition, format!("adarms_cond_{step}"))
            && intermediates.wants(&name)
        {
            let row = b.rows(&name, condition.times, step, step + 1)?;
            b.output(&name, row);
        }
        x_t = b.scope(&format!("steps.{step}"), |b| {
            let action_tokens = suffix::embed_actions(b, config, x_t, time)?;
            let tokens: Vec<ValueId> = state_token.into_iter().chain([action_tokens]).collect();
            let tokens = b.concat("suffix", &tokens, 0)?;
            intermediates.offer(b, &format!("suffix_embs_{step}"), tokens);
            let out =
                b.scope("expert", |b| suffix::expert(b, config, tokens, table, condition, &prefix, &blocks))?;
            let v_t = suffix::velocity(b, config, out, intermediates, step)?;
            intermediates.offer(b, &format!("v_t_{step}"), v_t);
            b.add_node("euler_step", Op::EulerStep { dt: dt as f32 }, &[x_t, v_t])
        })?;
    }
    b.output(ACTIONS, x_t);
    Ok(())
}
