//! The operations of the graph. Each says its formula, its operands in order, and their shapes.

/// A function applied to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: the tanh form that Gemma and SigLIP use.
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// Scaled dot-product attention with grouped key/value heads.
///
/// `out[q, h] = softmax_k(scale * query[q, h] . key[k, g(h)]) value[k, g(h)]`, `g(h) = h * kv_heads / heads`.
///
/// Operands: query `[rows, heads * head_dim]`, key and value `[key_rows, kv_heads * head_dim]`, then optionally
/// (`past`) past key and past value `[past_rows, kv_heads * head_dim]`, then optionally (`masked`) a bool mask:
/// over the past keys if there is a past, else over the keys themselves. A masked key is seen by no query.
/// There may be more keys than queries: the queries are then the last rows of what the keys are of.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// Rows are this many independent sequences of equal length (cameras in the vision tower).
    pub sequences: usize,
    /// Operands include a past key and value, seen by every query.
    pub past: bool,
    /// The last operand is a bool mask of keys.
    pub masked: bool,
    /// Block number of each key row, never decreasing: a query sees the keys of its own and earlier blocks.
    /// Empty: every query sees every key.
    pub blocks: Vec<u32>,
}

/// One operation. Every operand is f32 unless said otherwise; `[..]` are shapes.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `activation(x w^T + b)`: x `[rows, in]`, weight `[out, in]`, optional bias `[out]` or `[1, out]` -> `[rows, out]`.
    Linear {
        activation: Option<Activation>,
        /// Few numbers pass through here, and they are the robot's own (state, actions, time): a device that computes in
        /// fewer bits elsewhere keeps all that it can.
        exact: bool,
    },
    /// `activation(x g^T) * (x u^T)`: x `[rows, in]`, weights g and u `[out, in]` -> `[rows, out]`.
    GatedLinear {
        activation: Activation,
    },
    /// `(x - mean) / sqrt(var + epsilon) * weight + bias` per row: x `[rows, width]`, weight, bias `[width]`.
    LayerNorm {
        epsilon: f32,
    },
    /// `x / sqrt(mean(x^2) + epsilon) * (1 + weight) + shift` per row (Gemma; with a shift adaRMS): x `[rows, width]`, weight
    /// and optional shift `[width]` or `[1, width]`, or of x's shape: each row its own.
    RmsNorm {
        epsilon: f32,
    },
    /// Cosines then sines of `position / theta^(2i/head_dim)`, i < head_dim/2: i32 `[rows]` -> `[rows, head_dim]`.
    RotaryTable {
        head_dim: usize,
        theta: f64,
    },
    /// Rotates the two halves of each head by the table's angles: x `[rows, heads * head_dim]`, table `[rows, head_dim]`.
    Rotary {
        heads: usize,
    },
    Attention(Attention),
    /// `scale * table[token]`: tokens i32 `[rows]`, table `[vocabulary, width]` -> `[rows, width]`.
    Embedding {
        scale: f32,
    },
    /// Non-overlapping squares of an image as rows, each in channel, row, column order:
    /// `[channels, height, width]` -> `[patches, channels * patch^2]`.
    Patchify {
        patch: usize,
    },
    /// Joins any number of matrices along `axis`, or lists.
    Concat {
        axis: usize,
    },
    /// `start..end` of `axis`.
    Slice {
        axis: usize,
        start: usize,
        end: usize,
    },
    /// A single row repeated: `[1, width]` -> `[rows, width]`.
    Repeat {
        rows: usize,
    },
    /// `a + b`; b's rows are repeated as often as a needs.
    Add,
    /// `a * b` element by element; b's rows are repeated as often as a needs.
    Multiply,
    Activate(Activation),
    /// `x + dt * v`: one Euler step of the flow, x and v of the same shape.
    EulerStep {
        dt: f32,
    },
    /// `y + strength * w * (previous - (x + ahead * (y - x)))`: what an Euler step has made of x, drawn towards a previous chunk, as
    /// far as each of its rows weighs: x, y and previous of the same shape, w `[rows, 1]`. `x + ahead * (y - x)` is where the
    /// flow would end if it went on straight.
    Guide {
        ahead: f32,
        strength: f32,
    },
    /// Row by row a, or b where w is 0: a and b `[rows, width]` or `[1, width]`, w `[rows, 1]`.
    Choose,
    /// Which prefix tokens are real: image masks bool `[images]`, token mask bool `[tokens]`
    /// -> bool `[images * image_tokens + tokens]`.
    PrefixMask {
        image_tokens: usize,
    },
    /// `cumsum(mask) - 1`: bool `[rows]` -> i32 `[rows]`.
    Positions,
    /// `sum(mask) + i` for i < rows: bool `[any]` -> i32 `[rows]`.
    PositionsAfter {
        rows: usize,
    },
}

impl Op {
    /// The operation's name in messages and audits.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Linear { .. } => "linear",
            Op::GatedLinear { .. } => "gated_linear",
            Op::LayerNorm { .. } => "layer_norm",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RotaryTable { .. } => "rotary_table",
            Op::Rotary { .. } => "rotary",
            Op::Attention(_) => "attention",
            Op::Embedding { .. } => "embedding",
            Op::Patchify { .. } => "patchify",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Repeat { .. } => "repeat",
            Op::Add => "add",
            Op::Multiply => "multiply",
            Op::Activate(Activation::GeluTanh) => "gelu",
            Op::Activate(Activation::Silu) => "silu",
            Op::EulerStep { .. } => "euler_step",
            Op::Guide { .. } => "guide",
            Op::Choose => "choose",
            Op::PrefixMask { .. } => "prefix_mask",
            Op::Positions => "positions",
            Op::PositionsAfter { .. } => "positions_after",
        }
    }
}
