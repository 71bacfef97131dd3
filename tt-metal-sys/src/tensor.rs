//! What is said about a tensor, and the handles by which tensors, traces and events are named.
//!
//! Handles are numbers that are never used twice in a process: one that was freed, or that belongs to a session that
//! is closed, is an error wherever it is used.

use serde::Deserialize;

use crate::Error;

/// Types of elements. `Bfloat8B` shares exponents between 16 elements and exists in tiles only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    Bfloat16,
    Float32,
    Uint32,
    Int32,
    Bfloat8B,
}

/// Order of elements: tiles of 32 x 32, padded with zeros at the end of the last two dimensions, or rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Tile,
    RowMajor,
}

/// Where pages lie, interleaved over all banks: the card's DRAM, or the cores' L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    Dram,
    L1,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct TensorSpec {
    /// Without the padding of tiles.
    pub shape: Vec<u32>,
    pub dtype: DataType,
    pub layout: Layout,
    pub memory: Memory,
}

/// A tensor on the device: what it is, and where its buffer begins (in each bank).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TensorInfo {
    #[serde(flatten)]
    pub spec: TensorSpec,
    pub address: u64,
}

impl DataType {
    /// The name of the type in `ttnn` and in the arguments of [`Runtime::call`](crate::Runtime::call).
    pub fn name(self) -> &'static str {
        match self {
            Self::Bfloat16 => "bfloat16",
            Self::Float32 => "float32",
            Self::Uint32 => "uint32",
            Self::Int32 => "int32",
            Self::Bfloat8B => "bfloat8_b",
        }
    }
}

impl Layout {
    /// The name of the layout in the arguments of [`Runtime::call`](crate::Runtime::call).
    pub fn name(self) -> &'static str {
        match self {
            Self::Tile => "tile",
            Self::RowMajor => "row_major",
        }
    }
}

impl Memory {
    /// The name of the memory in the arguments of [`Runtime::call`](crate::Runtime::call).
    pub fn name(self) -> &'static str {
        match self {
            Self::Dram => "dram",
            Self::L1 => "l1",
        }
    }
}

impl TensorSpec {
    /// Elements without padding.
    pub fn elements(&self) -> Result<usize, Error> {
        self.shape
            .iter()
            .try_fold(1, |elements: usize, &size| elements.checked_mul(size as usize))
            .ok_or_else(|| Error::Argument(format!("a tensor of shape {:?} is too large", self.shape)))
    }
}

macro_rules! handle {
    ($(#[$about:meta])* $name:ident) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u64);

        impl $name {
            /// The number by which the runtime knows it.
            pub fn id(self) -> u64 {
                self.0
            }
        }
    };
}

handle! {
    /// A tensor on the device. It lives until it is freed or the session ends.
    Tensor
}
handle! {
    /// A trace that is being captured.
    Capture
}
handle! {
    /// A captured trace.
    Trace
}
handle! {
    /// A point in a command queue.
    Event
}
