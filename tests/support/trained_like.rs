//! Weights with what is known of trained ones as far as it matters to rounding: heavy tails, rows and columns of unequal size,
//! norm weights far from one, a few channels of the residual stream that are much larger than the others. They are drawn, not
//! trained: what a real checkpoint makes of rounding only that checkpoint says. Used by tests/tenstorrent_accuracy.rs.
//!
//! Where the numbers come from:
//! - A few fixed channels of the residual stream hold values hundreds of times the others', at the first token above all (Sun
//!   et al., "Massive Activations in Large Language Models", arXiv 2402.17762); in Gemma the residual stream has the largest
//!   of all activations (arXiv 2605.15572); in SigLIP outliers grow with pre-training, more than in CLIP (arXiv 2602.14432).
//! - Gemma's norms multiply by 1 + w, and w of 15.8 occurs (vllm-project/vllm, pull request 29810).
//! - Spreads of rows and columns, and a kurtosis of 5.8 (one element in fifty is three times as large), are this file's guess.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use half::bf16;
use pi0_node::graph::{WeightData, WeightError, WeightFormat, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Rows of the embedding's table that are enough for a prompt.
pub const VOCABULARY: usize = 1024;
/// The prompt's first token in PaliGemma's vocabulary.
pub const FIRST_TOKEN: usize = 2;
/// Large channels of a residual stream, as fractions of its width.
const LARGE_CHANNELS: [f32; 3] = [0.13, 0.47, 0.81];
/// Standard deviation of the logarithm of what a row or column is scaled by.
const UNEQUAL: f32 = 0.25;
/// Elements to draw from: their distribution is that of all matrices.
const DRAWN: usize = 1 << 16;

/// How unequal attention's scores are: what a layer before did wrong is multiplied by that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// Scores have a standard deviation of about two.
    Even,
    /// Of about four. Then what tt-metal's pi0.5 does gives what its authors measured with trained weights: 0.995 behind SigLIP, and
    /// 0.976 of what is added to the noise; theirs is 0.926 of actions, which are 0.5 to 1 times as large as the noise.
    Sharp,
}

/// Weights of any size of model, in bf16 as they are published.
pub struct TrainedLike {
    drawn: Vec<f32>,
    attention: Attention,
}

impl TrainedLike {
    pub fn new(attention: Attention) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(17);
        let mut normal = || -> f32 { StandardNormal.sample(&mut random) };
        let mut drawn: Vec<f32> =
            (0..DRAWN).map(|i| if i % 50 == 0 { 3.0 * normal() } else { normal() }).collect();
        let spread = (drawn.iter().map(|x| x * x).sum::<f32>() / DRAWN as f32).sqrt();
        drawn.iter_mut().for_each(|x| *x /= spread);
        Self { drawn, attention }
    }

    /// Rows and columns of unequal size, times `gain / sqrt(columns)`.
    fn matrix(&self, key: &str, rows: usize, columns: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed(key));
        let base = self.gain(key) / (columns as f32).sqrt();
        let by_row = unequal(&mut random, rows, UNEQUAL);
        let by_column = unequal(&mut random, columns, UNEQUAL);
        let mut state: u64 = random.random();
        let mut values = Vec::with_capacity(rows * columns);
        for row in &by_row {
            let mut bits = 0;
            for (i, column) in by_column.iter().enumerate() {
                if i % 4 == 0 {
                    bits = split_mix(&mut state);
                }
                values.push(base * row * column * self.drawn[(bits >> (16 * (i % 4))) as usize % DRAWN]);
            }
        }
        if writes_to_stream(key) {
            for channel in LARGE_CHANNELS.map(|at| (at * rows as f32) as usize) {
                values[channel * columns..(channel + 1) * columns].iter_mut().for_each(|x| *x *= 4.0);
            }
        }
        if key.ends_with("lm_head.weight") || key.ends_with("embed_tokens.weight") {
            // 450 times the others, once the embedding is multiplied with the root of the width.
            let row = &mut values[FIRST_TOKEN * columns..(FIRST_TOKEN + 1) * columns];
            large(row.len()).into_iter().for_each(|channel| row[channel] = 450.0 / (columns as f32).sqrt());
        }
        values
    }

    fn gain(&self, key: &str) -> f32 {
        match () {
            () if key.contains("q_proj") && self.attention == Attention::Sharp => 4.0,
            () if key.contains("q_proj") => 2.0,
            () if key.contains("dense") || writes_to_stream(key) => 0.5,
            // A position tells patches apart.
            () if key.contains("position_embedding") => 10.0,
            () => 1.0,
        }
    }

    fn list(key: &str, length: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed(key));
        let is_norm = key.contains("norm") && key.ends_with(".weight");
        if !is_norm {
            let mut values: Vec<f32> = (0..length)
                .map(|_| 0.1 * Distribution::<f32>::sample(&StandardNormal, &mut random))
                .collect();
            for (part, size) in STREAM_BIASES {
                if key.contains(part) {
                    large(length).into_iter().for_each(|channel| values[channel] = size);
                }
            }
            if key.contains("dense") {
                // adaRMS: scale, shift, gate; a gate lets something through.
                values[length / 3 * 2..].iter_mut().for_each(|x| *x += 0.5);
            }
            return values;
        }
        let mut values = unequal(&mut random, length, 0.5);
        // A norm makes what is large in the stream small again; some others stand out.
        large(length).into_iter().for_each(|channel| values[channel] = 0.1);
        (7..length).step_by(256).for_each(|channel| values[channel] = 16.8);
        // What a norm gives is as large as what it takes, whatever stands out.
        let size = (values.iter().map(|x| x * x).sum::<f32>() / length as f32).sqrt();
        values.iter_mut().for_each(|x| *x /= size);
        if !key.contains("vision_tower") {
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
        values
    }
}

/// Biases that put large channels into a stream at every token, and how large.
const STREAM_BIASES: [(&str, f32); 4] = [
    ("patch_embedding.bias", 30.0),
    ("multi_modal_projector", 20.0),
    ("action_time_mlp_out.bias", 15.0),
    ("action_in_proj.bias", 15.0),
];

fn large(width: usize) -> [usize; 3] {
    LARGE_CHANNELS.map(|at| (at * width as f32) as usize)
}

fn writes_to_stream(key: &str) -> bool {
    ["out_proj.weight", "o_proj.weight", "fc2.weight", "down_proj.weight"]
        .iter()
        .any(|end| key.ends_with(end))
        && key.contains("layers")
}

fn unequal(random: &mut ChaCha8Rng, count: usize, spread: f32) -> Vec<f32> {
    (0..count).map(|_| (spread * Distribution::<f32>::sample(&StandardNormal, random)).exp()).collect()
}

fn seed(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Weights for TrainedLike {
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError> {
        let values = match *shape {
            [length] => Self::list(key, length),
            [rows, ref columns @ ..] => self.matrix(key, rows, columns.iter().product()),
            [] => return Err(WeightError { key: key.into(), message: "has no size".into() }),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let range = 0..bytes.len();
        Ok(WeightData::new(Arc::new(bytes), range, WeightFormat::BF16).unwrap())
    }
}
