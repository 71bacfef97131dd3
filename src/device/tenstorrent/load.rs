//! Puts programs on the card: contents and inputs into tensors of their own, and every call made once. `Store` is the open
//! card and what lies on it for all programs. Called by `device`.

use std::collections::HashMap;
use std::time::Duration;

use tt_metal_sys::{
    DataType as SysType, HostData, Layout as SysLayout, Memory as SysMemory, Runtime, Session,
    Tensor as Handle, TensorSpec,
};

use super::card::Card;
use super::error::TenstorrentError;
use super::loaded::{Input, Loaded, Output, OutputSource, Staging};
use super::program::{DataType, Layout, Memory, Origin, Program, Tensor};
use crate::device::{DeviceError, Progress, constants};
use crate::graph::{Graph, HostTensor, Op, Source, Weights};

/// An open card.
pub(super) struct Store {
    pub session: Session,
    pub card: Card,
    /// It computes nothing.
    pub mock: bool,
    /// Contents by key, shared by all programs.
    contents: HashMap<String, Handle>,
    /// What programs left for each other, by name.
    pub residents: HashMap<String, Handle>,
}

impl Store {
    pub fn new(session: Session, card: Card, mock: bool) -> Self {
        Self { session, card, mock, contents: HashMap::new(), residents: HashMap::new() }
    }

    /// Bytes of a tensor that has to be loaded.
    pub fn missing_bytes(&self, tensor: &Tensor) -> u64 {
        match &tensor.origin {
            Origin::Content(content) if !self.contents.contains_key(&key(tensor, content.key())) => {
                tensor.bytes() as u64
            }
            _ => 0,
        }
    }

    /// Puts a program's contents and inputs on the card. A mock has room for contents and no use for them.
    pub fn load(
        &mut self,
        program: Program,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<Loaded, DeviceError> {
        let known = |tensor: &Tensor| match &tensor.origin {
            Origin::Content(content) => self.contents.contains_key(&key(tensor, content.key())),
            _ => true,
        };
        let new = !self.mock && !program.tensors.iter().all(known);
        let graph = &if new { constants::with_products(graph, weights)? } else { graph.clone() };
        let mut fixed = HashMap::new();
        let mut inputs = Vec::new();
        for (id, tensor) in program.ids() {
            let spec = spec(tensor);
            let failed = |error| TenstorrentError::call(&self.card, "loading", &tensor.name, &error);
            let handle = match &tensor.origin {
                Origin::Content(content) => {
                    let key = key(tensor, content.key());
                    let handle = match self.contents.get(&key) {
                        Some(&handle) => handle,
                        None if self.mock => {
                            self.session.with(|runtime| runtime.allocate(&spec)).map_err(failed)?
                        }
                        None if tensor.dtype == DataType::Float32 => {
                            let values = content.f32(graph, weights)?;
                            let upload =
                                |runtime: &mut Runtime| runtime.upload(&spec, HostData::Float32(&values));
                            self.session.with(upload).map_err(failed)?
                        }
                        None => {
                            let values = content.bf16(graph, weights)?;
                            let upload =
                                |runtime: &mut Runtime| runtime.upload(&spec, HostData::Bfloat16(&values));
                            self.session.with(upload).map_err(failed)?
                        }
                    };
                    if self.contents.insert(key, handle).is_none() {
                        progress.advance(tensor.bytes() as u64);
                    }
                    handle
                }
                Origin::Input(_) => {
                    let elements = tensor.shape.iter().product();
                    let staging = match tensor.dtype {
                        DataType::Float32 => Staging::Float(vec![0.0; elements]),
                        DataType::Uint32 => Staging::Whole(vec![0; elements]),
                        DataType::Bfloat16 | DataType::Bfloat8B | DataType::Int32 => {
                            Staging::Half(vec![0; elements])
                        }
                    };
                    let upload = |runtime: &mut Runtime| runtime.upload(&spec, staging.data());
                    let handle = self.session.with(upload).map_err(failed)?;
                    if let Some(input) = input(&program, graph, id, handle, staging) {
                        inputs.push(input);
                    }
                    handle
                }
                Origin::Resident(_) | Origin::Call => continue,
            };
            fixed.insert(id, handle);
        }
        let outputs = outputs(&program, graph, weights)?;
        Ok(Loaded {
            program,
            fixed,
            inputs,
            outputs,
            trace: None,
            time: Duration::ZERO,
            evidence: Vec::new(),
        })
    }

    /// Makes every call once, so that all kernels are compiled and loaded before anything is captured; if `evidence` is
    /// wanted, once more while the library writes down what it does.
    pub fn warm_up(&mut self, loaded: &mut Loaded, evidence: bool) -> Result<(), TenstorrentError> {
        let Self { session, card, residents: resident_tensors, .. } = self;
        session.with(|runtime| {
            let failed = |error| TenstorrentError::runtime("watching the warm-up", &error);
            let mut made = loaded.call_all(runtime, card, resident_tensors, |_, _| Ok(()))?;
            if evidence {
                // A second time: what the library prepares once is no part of what a trace replays.
                for tensor in made.into_values() {
                    runtime.free(tensor).map_err(failed)?;
                }
                runtime.begin_graph_capture().map_err(failed)?;
                made = loaded.call_all(runtime, card, resident_tensors, |_, _| Ok(()))?;
                let written = runtime.end_graph_capture().map_err(failed)?;
                loaded.evidence = super::evidence::read(&loaded.program, &written)?;
            }
            runtime.synchronize().map_err(failed)?;
            let residents = &loaded.program.residents;
            for (id, tensor) in made {
                match residents.iter().find(|resident| resident.1 == id) {
                    Some((name, _)) => drop(resident_tensors.insert(name.clone(), tensor)),
                    None => runtime.free(tensor).map_err(failed)?,
                }
            }
            Ok(())
        })
    }
}

/// How an input is written.
fn input(
    program: &Program,
    graph: &Graph,
    id: super::program::TensorId,
    tensor: Handle,
    staging: Staging,
) -> Option<Input> {
    let placed = program.inputs.iter().find(|input| input.tensor == id)?.clone();
    let (value_id, value) = graph.inputs().find(|(_, value)| value.name == placed.name)?;
    let table = graph.nodes.iter().find_map(|node| match node.op {
        Op::Embedding { .. } if node.operands[0] == value_id => Some(graph.shape(node.operands[1])[0]),
        _ => None,
    });
    let below = table.map(|rows| i32::try_from(rows).unwrap_or(i32::MAX));
    Some(Input { placed, ty: value.ty.clone(), tensor, staging, below })
}

fn outputs(program: &Program, graph: &Graph, weights: &dyn Weights) -> Result<Vec<Output>, DeviceError> {
    let constant = graph.constants();
    let output = |binding: &crate::graph::Binding| {
        let value = graph.value(binding.value);
        let source = match &value.source {
            Source::Constant(known) => OutputSource::Known(known.clone()),
            _ if constant[binding.value.index()] => {
                let computed = constants::compute(graph, &[binding.value], weights)?;
                OutputSource::Known(HostTensor::F32(computed.concat()))
            }
            _ => match program.outputs.iter().find(|output| output.name == binding.name) {
                Some(placed) => {
                    let values = vec![0.0; placed.rows.physical * placed.columns.physical];
                    OutputSource::Card { placed: placed.clone(), tensor: None, values }
                }
                None => return Ok(None),
            },
        };
        Ok(Some(Output { name: binding.name.clone(), ty: value.ty.clone(), source }))
    };
    graph.outputs.iter().filter_map(|binding| output(binding).transpose()).collect()
}

/// Equal for contents that can be one tensor.
fn key(tensor: &Tensor, content: &str) -> String {
    format!("{content} as {:?} {} {}", tensor.shape, tensor.dtype.name(), tensor.layout.name())
}

fn spec(tensor: &Tensor) -> TensorSpec {
    TensorSpec {
        shape: tensor.shape.iter().map(|&length| u32::try_from(length).unwrap_or(u32::MAX)).collect(),
        dtype: match tensor.dtype {
            DataType::Bfloat16 => SysType::Bfloat16,
            DataType::Bfloat8B => SysType::Bfloat8B,
            DataType::Float32 => SysType::Float32,
            DataType::Uint32 => SysType::Uint32,
            DataType::Int32 => SysType::Int32,
        },
        layout: match tensor.layout {
            Layout::Tile => SysLayout::Tile,
            Layout::RowMajor => SysLayout::RowMajor,
        },
        memory: match tensor.memory {
            Memory::Dram => SysMemory::Dram,
            // What is loaded is in either as a whole.
            Memory::L1 | Memory::Columns(_) | Memory::Blocks(_) => SysMemory::L1,
        },
    }
}
