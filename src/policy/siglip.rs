//! The SigLIP vision tower: images to image tokens. Called by `prefix`.
//!
//! All cameras go through together as rows of one matrix, so that each weight is read once.

use super::config::VisionConfig;
use super::intermediates::Intermediates;
use super::keys::VISION;
use crate::graph::builder::Added;
use crate::graph::{Activation, Attention, GraphBuilder, GraphError, Op, ValueId};

const EPSILON: f32 = 1e-6;

/// `images` (each `[3, image, image]`) -> `[cameras * tokens, width]`, after the tower's last norm.
pub(super) fn build(
    b: &mut GraphBuilder,
    config: &VisionConfig,
    images: &[ValueId],
    intermediates: &Intermediates,
) -> Added {
    let offer_cameras = |b: &mut GraphBuilder, name: &str, x: ValueId, cameras: usize| {
        (0..cameras).try_for_each(|camera| {
            let name = format!("{name}_{camera}");
            if intermediates.wants(&name) {
                let one = b.rows(&name, x, camera * config.tokens(), (camera + 1) * config.tokens())?;
                intermediates.offer(b, &name, one);
            }
            Ok::<_, GraphError>(())
        })
    };
    let cameras = images.len();

    let patches = embed_patches(b, config, images)?;
    offer_cameras(b, "patch", patches, cameras)?;
    let positions =
        b.weight(&format!("{VISION}embeddings.position_embedding.weight"), &[config.tokens(), config.width]);
    let mut x = b.add("positions", patches, positions)?;
    offer_cameras(b, "vis_embed", x, cameras)?;

    for index in 0..config.layers {
        x = b.scope(&format!("layers.{index}"), |b| layer(b, config, index, x, cameras))?;
        let name = format!("vis_layer_{index}");
        if intermediates.wants(&name) {
            let first = b.rows(&name, x, 0, config.tokens())?;
            intermediates.offer(b, &name, first);
        }
    }
    let out = norm(b, "norm", x, &format!("{VISION}post_layernorm"), config.width)?;
    offer_cameras(b, "vis_out", out, cameras)?;
    Ok(out)
}

/// The patch convolution as a matrix product: its kernel and its stride are both one patch.
fn embed_patches(b: &mut GraphBuilder, config: &VisionConfig, images: &[ValueId]) -> Added {
    let VisionConfig { width, patch, .. } = *config;
    let each = images
        .iter()
        .enumerate()
        .map(|(camera, &image)| b.add_node(&format!("patchify_{camera}"), Op::Patchify { patch }, &[image]))
        .collect::<Result<Vec<_>, _>>()?;
    let patches = b.concat("patches", &each, 0)?;
    let key = format!("{VISION}embeddings.patch_embedding");
    let weight =
        b.weight_as(&format!("{key}.weight"), &[width, 3, patch, patch], &[width, 3 * patch * patch]);
    let bias = b.weight(&format!("{key}.bias"), &[width]);
    b.linear("patch_embedding", patches, weight, Some(bias))
}

/// A pre-norm transformer layer: `x += attention(norm(x)); x += mlp(norm(x))`.
fn layer(b: &mut GraphBuilder, config: &VisionConfig, index: usize, x: ValueId, cameras: usize) -> Added {
    let VisionConfig { width, heads, mlp, .. } = *config;
    let head_dim = width / heads;
    let key = format!("{VISION}encoder.layers.{index}");

    let attended = b.scope("attn", |b| {
        let h = norm(b, "norm", x, &format!("{key}.layer_norm1"), width)?;
        let project = |b: &mut GraphBuilder, name: &str| {
            dense(b, name, h, &format!("{key}.self_attn.{name}_proj"), width, width)
        };
        let (q, k, v) = (project(b, "q")?, project(b, "k")?, project(b, "v")?);
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            sequences: cameras,
            past: false,
            masked: false,
            blocks: Vec::new(),
        };
        let heads_out = b.attention("softmax", attention, &[q, k, v])?;
        dense(b, "out", heads_out, &format!("{key}.self_attn.out_proj"), width, width)
    })?;
    let x = b.add("attn.residual", x, attended)?;

    let fed = b.scope("mlp", |b| {
        let h = norm(b, "norm", x, &format!("{key}.layer_norm2"), width)?;
        let h = dense(b, "fc1", h, &format!("{key}.mlp.fc1"), width, mlp)?;
        let h = b.activate("gelu", Activation::GeluTanh, h)?;
        dense(b, "fc2", h, &format!("{key}.mlp.fc2"), mlp, width)
    })?;
    b.add("mlp.residual", x, fed)
}

fn norm(b: &mut GraphBuilder, name: &str, x: ValueId, key: &str, width: usize) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[width]);
    let bias = b.weight(&format!("{key}.bias"), &[width]);
    b.layer_norm(name, x, weight, bias, EPSILON)
}

/// `x w^T + b` with the checkpoint's `key.weight` and `key.bias`.
pub(super) fn dense(
    b: &mut GraphBuilder,
    name: &str,
    x: ValueId,
    key: &str,
    input: usize,
    output: usize,
) -> Added {
    let weight = b.weight(&format!("{key}.weight"), &[output, input]);
    let bias = b.weight(&format!("{key}.bias"), &[output]);
    b.linear(name, x, weight, Some(bias))
}
