//! What a call of a [`Program`](super::program::Program) is given: tensors, numbers, element types, and how the work is spread over
//! the cores. Written by `lower`; `tt-metal-sys` takes it as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::program::{DataType, Layout, Memory, Shards, TensorId};

/// How precisely products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// `LoFi`, `HiFi2`, `HiFi4`: how many bits of a factor are multiplied.
    pub fidelity: &'static str,
    /// Sums in f32 instead of bf16.
    pub fp32_accumulate: bool,
}

/// How a product is spread over the cores by `ttnn.linear`, in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulSpread {
    /// Every core has all rows and some columns, or blocks of both.
    pub columns_only: bool,
    /// Rows of the result lie along the rows of cores instead of down their columns.
    pub transposed: bool,
    /// Columns and rows of cores.
    pub grid: [usize; 2],
    /// Depth at a time.
    pub in0_block_w: usize,
    pub out_subblock_h: usize,
    pub out_subblock_w: usize,
    pub per_core_m: usize,
    pub per_core_n: usize,
    pub activation: Option<&'static str>,
}

/// The same for `ttnn.experimental.minimal_matmul_split`: blocks that the cores take in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinimalSpread {
    pub grid: [usize; 2],
    pub m_block: usize,
    pub k_block: usize,
    pub n_block: usize,
    pub subblock_h: usize,
    pub subblock_w: usize,
}

/// An operand or an attribute of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    Tensor(TensorId),
    List(Vec<Argument>),
    Integer(i64),
    Number(f64),
    Flag(bool),
    Shape(Vec<usize>),
    Dtype(DataType),
    Layout(Layout),
    Memory(Memory),
    /// Columns and rows of cores.
    Grid([usize; 2]),
    /// An element-wise function by the library's name.
    Unary(&'static str),
    Compute(Compute),
    MatmulSpread(MatmulSpread),
    MinimalSpread(MinimalSpread),
    /// A norm of what is shared out so.
    NormSpread(Shards),
    /// Cores, rows of queries and of keys that one of them takes at a time, and whether exponentials are approximated within 3 %.
    Attention {
        grid: [usize; 2],
        queries: usize,
        keys: usize,
        approximate: bool,
    },
}

impl Argument {
    pub fn integers(values: impl IntoIterator<Item = usize>) -> Self {
        Self::List(values.into_iter().map(|value| Self::Integer(value as i64)).collect())
    }

    /// Calls `with` for every tensor in it.
    pub fn tensors(&self, with: &mut impl FnMut(TensorId)) {
        match self {
            Self::Tensor(id) => with(*id),
            Self::List(items) => items.iter().for_each(|item| item.tensors(with)),
            _ => {}
        }
    }

    /// In the form that `tt-metal-sys` takes, with `handle` for the tensors.
    pub fn to_json(&self, handle: &impl Fn(TensorId) -> u64) -> Value {
        match self {
            Self::Tensor(id) => json!({ "tensor": handle(*id) }),
            Self::List(items) => items.iter().map(|item| item.to_json(handle)).collect(),
            Self::Integer(value) => json!(value),
            Self::Number(value) => json!(value),
            Self::Flag(value) => json!(value),
            Self::Shape(shape) => json!({ "shape": shape }),
            Self::Dtype(dtype) => json!({ "dtype": dtype.name() }),
            Self::Layout(layout) => json!({ "layout": layout.name() }),
            Self::Memory(Memory::Columns(shards)) => json!({ "columns": shards.to_json() }),
            Self::Memory(Memory::Blocks(shards)) => json!({ "blocks": shards.to_json() }),
            Self::Memory(memory) => json!({ "memory": memory.name() }),
            Self::Grid(grid) => json!({ "grid": grid }),
            Self::Unary(name) => json!({ "unary": name }),
            Self::Compute(Compute { fidelity, fp32_accumulate }) => json!({ "compute": {
                "fidelity": fidelity,
                "fp32_accumulate": fp32_accumulate,
                "approximate": false,
                "l1_accumulate": true,
            }}),
            Self::MatmulSpread(spread) => {
                let mut config = json!({
                    "grid": spread.grid,
                    "in0_block_w": spread.in0_block_w,
                    "out_subblock_h": spread.out_subblock_h,
                    "out_subblock_w": spread.out_subblock_w,
                    "per_core_m": spread.per_core_m,
                    "per_core_n": spread.per_core_n,
                    "activation": spread.activation,
                });
                let (kind, more) = match spread.columns_only {
                    true => ("matmul_1d", [("fuse_batch", true), ("mcast_in0", true)]),
                    false => ("matmul_2d", [("fuse_batch", true), ("transpose_mcast", spread.transposed)]),
                };
                more.iter().for_each(|&(name, value)| config[name] = json!(value));
                json!({ kind: config })
            }
            Self::MinimalSpread(spread) => json!({ "matmul_minimal": {
                "grid": spread.grid,
                "m_block": spread.m_block,
                "k_block": spread.k_block,
                "n_block": spread.n_block,
                "subblock_h": spread.subblock_h,
                "subblock_w": spread.subblock_w,
            }}),
            Self::NormSpread(shards) => json!({ "norm": shards.to_json() }),
            Self::Attention { grid, queries, keys, approximate } => {
                json!({ "sdpa": {
                    "grid": grid,
                    "q_chunk": queries,
                    "k_chunk": keys,
                    "approximate": approximate,
                }})
            }
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(id) => write!(f, "%{}", id.0),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Shape(shape) => write!(f, "{shape:?}"),
            Self::Dtype(dtype) => f.write_str(dtype.name()),
            Self::Layout(layout) => f.write_str(layout.name()),
            Self::Memory(memory) => f.write_str(memory.name()),
            Self::Grid([x, y]) => write!(f, "{x}x{y}"),
            Self::Unary(name) => f.write_str(name),
            Self::Compute(Compute { fidelity, .. }) => f.write_str(fidelity),
            Self::MatmulSpread(spread) => {
                let MatmulSpread { grid: [x, y], in0_block_w, per_core_m, per_core_n, activation, .. } =
                    spread;
                write!(f, "{x}x{y} of {per_core_m}x{per_core_n} tiles, {in0_block_w} deep")?;
                if spread.transposed {
                    f.write_str(", transposed")?;
                }
                activation.map_or(Ok(()), |name| write!(f, ", {name}"))
            }
            Self::MinimalSpread(MinimalSpread { grid: [x, y], m_block, n_block, .. }) => {
                write!(f, "{x}x{y}, blocks of {m_block}x{n_block} tiles")
            }
            Self::NormSpread(Shards { grid: [x, y], rows, width, .. }) => {
                write!(f, "{x}x{y} of {rows}x{width}")
            }
            Self::Attention { grid: [x, y], queries, keys, approximate } => {
                let exponentials = if *approximate { "approximate" } else { "exact" };
                write!(f, "{x}x{y}, {queries} x {keys}, {exponentials}")
            }
        }
    }
}
