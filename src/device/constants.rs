//! Values that are made of weights and constants alone, for devices that do not compute these themselves: the reference device
//! does, once; and their elements, wherever these come from. Called by `tenstorrent` and `cuda` when they load a program.

use std::borrow::Cow;
use std::collections::HashMap;

use super::cpu::{CpuDevice, Precision};
use super::{Device, DeviceError, DeviceOptions, Silent};
use crate::graph::{Graph, HostTensor, Op, Source, TensorType, ValueId, WeightData, WeightError, Weights};

/// Values that were computed.
pub type Computed = HashMap<ValueId, Vec<f32>>;

/// The graph with every product of constants known: each is computed once, by the reference device, however many contents
/// are parts of it.
pub fn with_products(graph: &Graph, weights: &dyn Weights) -> Result<Graph, DeviceError> {
    let constant = graph.constants();
    let products = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Linear { .. }) && constant[node.result.index()]);
    let products: Vec<ValueId> = products.map(|node| node.result).collect();
    let mut known = graph.clone();
    for (id, values) in products.iter().zip(compute(graph, &products, weights)?) {
        known.values[id.index()].source = Source::Constant(HostTensor::F32(values));
    }
    Ok(known)
}

/// Values of weights and constants alone, as the reference device computes them.
pub fn compute(graph: &Graph, ids: &[ValueId], weights: &dyn Weights) -> Result<Vec<Vec<f32>>, DeviceError> {
    let mut cpu = CpuDevice::new(DeviceOptions::cpu(1, Precision::F32))?;
    let names = ids.iter().map(|id| id.index().to_string());
    let program = cpu.compile(&graph.parts(ids.iter().copied().zip(names)), weights, &Silent)?;
    cpu.run(program)?;
    let mut read = |id: &ValueId| {
        let mut out = HostTensor::zeros(&TensorType::f32(graph.shape(*id)));
        cpu.read(program, &id.index().to_string(), &mut out)?;
        match out {
            HostTensor::F32(values) => Ok(values),
            HostTensor::I32(_) | HostTensor::Bool(_) => Err(DeviceError::Unsupported {
                node: graph.value(*id).name.clone(),
                what: "a constant that is not f32".into(),
            }),
        }
    };
    ids.iter().map(&mut read).collect()
}

/// A constant value's elements.
pub enum Elements<'a> {
    Stored(String, WeightData),
    Known(Cow<'a, [f32]>),
}

impl<'a> Elements<'a> {
    /// Of a weight, a constant, or what is made of these, which may be among the `computed` already.
    pub fn of(
        graph: &'a Graph,
        id: ValueId,
        computed: &'a Computed,
        weights: &dyn Weights,
    ) -> Result<Self, DeviceError> {
        match (&graph.value(id).source, computed.get(&id)) {
            (Source::Weight { key, stored }, _) => {
                Ok(Self::Stored(key.clone(), weights.weight(key, stored)?))
            }
            (Source::Constant(HostTensor::F32(values)), _) | (_, Some(values)) => {
                Ok(Self::Known(Cow::Borrowed(values)))
            }
            _ => Ok(Self::Known(Cow::Owned(compute(graph, &[id], weights)?.concat()))),
        }
    }

    /// Those from `start` on, as f32.
    pub fn copy(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::Stored(_, data) => data.copy_f32(start, out),
            Self::Known(values) => out.copy_from_slice(&values[start..start + out.len()]),
        }
    }

    /// Nobody reads them any more.
    pub fn release(&self) {
        if let Self::Stored(_, data) = self {
            data.release();
        }
    }

    /// Names the first element of a tensor that is no finite number.
    #[cold]
    pub fn check_finite(&self) -> Result<(), WeightError> {
        match self {
            Self::Stored(key, data) => match data.first_not_finite() {
                Some(found) => Err(WeightError { key: key.clone(), message: found.to_string() }),
                None => Ok(()),
            },
            Self::Known(_) => Ok(()),
        }
    }
}
