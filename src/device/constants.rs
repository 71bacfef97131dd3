//! Values that are made of weights and constants alone, for devices that do not compute these themselves: the reference device
//! does, once. Called by `tenstorrent` and `cuda` when they load a program.

use super::cpu::{CpuDevice, Precision};
use super::{Device, DeviceError, DeviceOptions, Silent};
use crate::graph::{Graph, HostTensor, Op, Source, TensorType, ValueId, Weights};

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
