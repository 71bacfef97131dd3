//! Types of graph values, and tensors in host memory.

use std::fmt;

/// Element type of a graph value. Weights may be stored in fewer bits; see [`super::WeightFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    I32,
    Bool,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::I32 => "i32",
            DType::Bool => "bool",
        })
    }
}

/// Element type and shape, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorType {
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::F32, shape)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last axis: the columns when the tensor is read as a matrix.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all axes but the last: the rows when the tensor is read as a matrix.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// A tensor's elements in host memory, borrowed: what is written to a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HostView<'a> {
    F32(&'a [f32]),
    I32(&'a [i32]),
    Bool(&'a [bool]),
}

impl HostView<'_> {
    pub fn dtype(&self) -> DType {
        match self {
            HostView::F32(_) => DType::F32,
            HostView::I32(_) => DType::I32,
            HostView::Bool(_) => DType::Bool,
        }
    }

    pub fn elements(&self) -> usize {
        match self {
            HostView::F32(data) => data.len(),
            HostView::I32(data) => data.len(),
            HostView::Bool(data) => data.len(),
        }
    }
}

/// A tensor's elements in host memory, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum HostTensor {
    F32(Vec<f32>),
    I32(Vec<i32>),
    Bool(Vec<bool>),
}

impl HostTensor {
    pub fn view(&self) -> HostView<'_> {
        match self {
            HostTensor::F32(data) => HostView::F32(data),
            HostTensor::I32(data) => HostView::I32(data),
            HostTensor::Bool(data) => HostView::Bool(data),
        }
    }

    /// Zeros of a type: the buffer an output is read into.
    pub fn zeros(ty: &TensorType) -> Self {
        match ty.dtype {
            DType::F32 => HostTensor::F32(vec![0.0; ty.elements()]),
            DType::I32 => HostTensor::I32(vec![0; ty.elements()]),
            DType::Bool => HostTensor::Bool(vec![false; ty.elements()]),
        }
    }
}
