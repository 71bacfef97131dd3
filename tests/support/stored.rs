//! Safetensors files made of golden tensors. Used by the tests that give checkpoints and inputs to the program.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use pi0_node::graph::HostTensor;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::golden::Tensor;

/// A tensor to store: type, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);
pub type Tensors = BTreeMap<String, Stored>;

pub fn stored(tensor: &Tensor) -> Stored {
    let (dtype, bytes) = match &tensor.data {
        HostTensor::F32(_) => return stored_as(tensor, Dtype::F32),
        HostTensor::I32(values) => {
            (Dtype::I32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        HostTensor::Bool(values) => (Dtype::BOOL, values.iter().map(|&value| u8::from(value)).collect()),
    };
    (dtype, tensor.shape.clone(), bytes)
}

/// A weight, rounded to a format of weights.
pub fn stored_as(weight: &Tensor, format: Dtype) -> Stored {
    let HostTensor::F32(values) = &weight.data else { panic!("weights are f32") };
    let bytes = match format {
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        other => panic!("{other}"),
    };
    (format, weight.shape.clone(), bytes)
}

pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}
