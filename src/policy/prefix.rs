//! The perceive graph: images and prompt to the prefix's KV cache. Called by [`super::PolicyGraphs`].

use super::config::PolicyConfig;
use super::gemma::{self, Context};
use super::intermediates::Intermediates;
use super::keys::{EMBEDDING, PROJECTOR, VLM};
use super::{IMAGE_MASKS, PrefixCache, TOKEN_MASK, TOKENS, image_input, siglip};
use crate::graph::builder::Added;
use crate::graph::{DType, GraphBuilder, GraphError, Op, TensorType, ValueId};

pub(super) fn build(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    cameras: usize,
    intermediates: &Intermediates,
) -> Result<(), GraphError> {
    let side = config.vision.image;
    let images: Vec<ValueId> =
        (0..cameras).map(|camera| b.input(&image_input(camera), TensorType::f32([3, side, side]))).collect();
    let image_masks = b.input(IMAGE_MASKS, TensorType::new(DType::Bool, [cameras]));
    let tokens = b.input(TOKENS, TensorType::new(DType::I32, [config.prompt_tokens]));
    let token_mask = b.input(TOKEN_MASK, TensorType::new(DType::Bool, [config.prompt_tokens]));

    let image_tokens = embed_images(b, config, &images, intermediates)?;
    let prompt_tokens = embed_prompt(b, config, tokens)?;
    intermediates.offer(b, "lang_embs", prompt_tokens);
    let x = b.concat("prefix", &[image_tokens, prompt_tokens], 0)?;
    intermediates.offer(b, "prefix_embs", x);

    // Every real token sees every real token; positions count the real ones only.
    let op = Op::PrefixMask { image_tokens: config.vision.tokens() };
    let mask = b.add_node("prefix_mask", op, &[image_masks, token_mask])?;
    intermediates.offer(b, "prefix_pad_mask", mask);
    let positions = b.add_node("prefix_positions", Op::Positions, &[mask])?;
    intermediates.offer(b, "prefix_position_ids", positions);

    let cache = b.scope("vlm", |b| language_model(b, config, x, mask, positions, intermediates))?;
    cache.keep(b);
    Ok(())
}

/// Image tokens in the language model's width; unlike the prompt's they are not scaled.
fn embed_images(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    images: &[ValueId],
    intermediates: &Intermediates,
) -> Added {
    let seen = b.scope("vision", |b| siglip::build(b, &config.vision, images, intermediates))?;
    let key = PROJECTOR.trim_end_matches('.');
    let projected = siglip::dense(b, "projector", seen, key, config.vision.width, config.vlm.width)?;
    for camera in 0..images.len() {
        let name = format!("proj_{camera}");
        if intermediates.wants(&name) {
            let tokens = config.vision.tokens();
            let one = b.rows(&name, projected, camera * tokens, (camera + 1) * tokens)?;
            intermediates.offer(b, &name, one);
        }
    }
    Ok(projected)
}

/// `embedding[token] * sqrt(width)`.
fn embed_prompt(b: &mut GraphBuilder, config: &PolicyConfig, tokens: ValueId) -> Added {
    let table = b.weight(EMBEDDING, &[config.vocabulary, config.vlm.width]);
    let scale = (config.vlm.width as f32).sqrt();
    b.add_node("embed_prompt", Op::Embedding { scale }, &[tokens, table])
}

fn language_model(
    b: &mut GraphBuilder,
    config: &PolicyConfig,
    mut x: ValueId,
    mask: ValueId,
    positions: ValueId,
    intermediates: &Intermediates,
) -> Result<PrefixCache, GraphError> {
    let op = Op::RotaryTable { head_dim: config.vlm.head_dim, theta: gemma::THETA };
    let table = b.add_node("rotary_table", op, &[positions])?;
    let mut cache = PrefixCache { keys: Vec::new(), values: Vec::new(), mask };
    for index in 0..config.vlm.layers {
        let layer = b.scope(&format!("layers.{index}"), |b| {
            let key = format!("{VLM}layers.{index}.");
            gemma::layer(b, &config.vlm, &key, x, table, Context::Masked(mask), None)
        })?;
        intermediates.offer(b, &format!("cache_k_{index}"), layer.key);
        intermediates.offer(b, &format!("cache_v_{index}"), layer.value);
        cache.keys.push(layer.key);
        cache.values.push(layer.value);
        x = layer.x;
    }
    let out = gemma::norm(b, "norm", x, &format!("{VLM}norm"), config.vlm.width, None)?;
    intermediates.offer(b, "prefix_out", out.x);
    Ok(cache)
}
