//! Turns a graph into a [`Program`]: a place for every value, a kernel per node (`lower`), weights packed (`load`).
//!
//! Nodes first become drafts, which know the buffers they touch but not where these are; once all drafts are known,
//! the arena is planned and the drafts become steps.

use std::collections::HashMap;

use super::kernels::heads::Side;
use super::kernels::shape::Copy;
use super::kernels::{Isa, Kernel, Step, compiled};
use super::layout::{Addresses, BufferId, Home, Layout, View};
use super::load::Loader;
use super::lower::PackShape;
use super::memory::{Matrix, Words};
use super::program::{Program, Slot};
use crate::device::DeviceError;
use crate::graph::{Graph, HostTensor, HostView, Source, TensorType, ValueId};

/// Resident values of a device: name to type and memory.
pub(super) type Residents = HashMap<String, (TensorType, Words)>;

/// What a compilation needs to know of the device.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub isa: Isa,
    pub threads: usize,
}

type Bind = Box<dyn FnOnce(&Addresses) -> Box<dyn Step>>;

struct Draft {
    touches: Vec<BufferId>,
    bind: Bind,
}

pub(super) struct Compiler<'a> {
    pub graph: &'a Graph,
    pub target: Target,
    pub loader: Loader<'a>,
    pub layout: Layout,
    drafts: Vec<Draft>,
    /// Contents of constants and small weights.
    contents: Vec<(View, HostTensor)>,
    /// Packed keys and values that are already there, by value.
    pub packed_heads: HashMap<(ValueId, Side), (View, PackShape)>,
    /// Vocabulary size that each token list is looked up in.
    pub limits: HashMap<ValueId, i32>,
}

/// Compiles `graph`. Resident values that it leaves are added to `residents`.
pub(super) fn compile(
    graph: &Graph,
    target: Target,
    loader: Loader,
    residents: &mut Residents,
) -> Result<Program, DeviceError> {
    let mut compiler = Compiler {
        graph,
        target,
        loader,
        layout: Layout::new(graph.values.len()),
        drafts: Vec::new(),
        contents: Vec::new(),
        packed_heads: HashMap::new(),
        limits: HashMap::new(),
    };
    for (id, value) in graph.inputs() {
        compiler.layout.place(id, &value.ty, Home::Pinned);
    }
    compiler.find_residents(residents)?;
    for node in &graph.nodes {
        compiler.node(node)?;
    }
    compiler.results(residents)?;
    compiler.finish(residents)
}

impl Compiler<'_> {
    /// Places the resident values that another program left.
    fn find_residents(&mut self, residents: &Residents) -> Result<(), DeviceError> {
        let found = self.graph.ids().filter(|(_, value)| value.source == Source::Resident);
        for (id, value) in found {
            match residents.get(&value.name) {
                None => {
                    return Err(DeviceError::MissingResident {
                        graph: self.graph.name.clone(),
                        name: value.name.clone(),
                    });
                }
                Some((ty, _)) => self.check_resident(&value.name, ty, &value.ty)?,
            }
            self.layout.place(id, &value.ty, Home::Resident(value.name.clone()));
        }
        Ok(())
    }

    fn check_resident(
        &self,
        name: &str,
        found: &TensorType,
        expected: &TensorType,
    ) -> Result<(), DeviceError> {
        if found == expected {
            return Ok(());
        }
        Err(DeviceError::ResidentType {
            graph: self.graph.name.clone(),
            name: name.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        })
    }

    /// Where a value is; constants and small weights get their place when first read.
    pub fn view(&mut self, id: ValueId) -> Result<View, DeviceError> {
        if let Some(view) = self.layout.get(id) {
            return Ok(view);
        }
        let value = self.graph.value(id);
        let content = match &value.source {
            Source::Constant(tensor) => tensor.clone(),
            Source::Weight { key, stored } => HostTensor::F32(self.loader.plain(key, stored)?),
            Source::Input | Source::Resident | Source::Node(_) => {
                return Err(DeviceError::Order { graph: self.graph.name.clone(), value: value.name.clone() });
            }
        };
        let view = self.layout.place(id, &value.ty, Home::Pinned);
        self.contents.push((view, content));
        Ok(view)
    }

    pub fn views(&mut self, ids: &[ValueId]) -> Result<Vec<View>, DeviceError> {
        ids.iter().map(|&id| self.view(id)).collect()
    }

    /// Adds a kernel that touches `views` and is made from their matrices.
    pub fn draft<K: Kernel + 'static>(
        &mut self,
        views: Vec<View>,
        kernel: impl FnOnce(&[Matrix]) -> K + 'static,
    ) {
        let isa = self.target.isa;
        let touches = views.iter().map(|view| view.buffer).collect();
        let bind: Bind = Box::new(move |addresses| {
            let matrices: Vec<Matrix> = views.iter().map(|&view| addresses.matrix(view)).collect();
            compiled(kernel(&matrices), isa)
        });
        self.drafts.push(Draft { touches, bind });
    }

    /// Makes outputs and residents survive the run.
    fn results(&mut self, residents: &mut Residents) -> Result<(), DeviceError> {
        for binding in &self.graph.residents {
            let ty = &self.graph.value(binding.value).ty;
            let view = self.view(binding.value)?;
            if !self.layout.make_resident(view, &binding.name) {
                let copy = self.layout.buffer(ty.rows(), ty.columns(), Home::Resident(binding.name.clone()));
                let threads = self.target.threads;
                self.draft(vec![copy, view], move |m| Copy { x: m[1], out: m[0], threads });
            }
            match residents.get(&binding.name) {
                Some((found, _)) => self.check_resident(&binding.name, found, ty)?,
                None => {
                    residents.insert(binding.name.clone(), (ty.clone(), Words::new(ty.elements())));
                }
            }
        }
        for binding in &self.graph.outputs {
            let view = self.view(binding.value)?;
            self.layout.pin(view);
        }
        Ok(())
    }

    fn finish(self, residents: &Residents) -> Result<Program, DeviceError> {
        let Self { graph, target, layout, drafts, contents, limits, .. } = self;
        let touched: Vec<Vec<BufferId>> = drafts.iter().map(|draft| draft.touches.clone()).collect();
        let (memory, addresses) = layout.allocate(&touched, |name| match residents.get(name) {
            Some((_, words)) => words.as_ptr(),
            None => std::ptr::null_mut(),
        });
        for (view, content) in contents {
            // SAFETY: contents have pinned buffers of their own size, and nothing runs yet.
            unsafe { fill(addresses.matrix(view), content.view()) }
        }
        let slot = |name: &str, value: ValueId| {
            let view = layout
                .get(value)
                .ok_or_else(|| DeviceError::Order { graph: graph.name.clone(), value: name.into() })?;
            let ty = graph.value(value).ty.clone();
            let below = limits.get(&value).copied();
            Ok(Slot { name: name.into(), ty, matrix: addresses.matrix(view), below })
        };
        let inputs =
            graph.inputs().map(|(id, value)| slot(&value.name, id)).collect::<Result<_, DeviceError>>()?;
        let outputs = graph
            .outputs
            .iter()
            .map(|binding| slot(&binding.name, binding.value))
            .collect::<Result<_, DeviceError>>()?;
        let steps: Vec<Box<dyn Step>> = drafts.into_iter().map(|draft| (draft.bind)(&addresses)).collect();
        let words = steps.iter().map(|step| step.scratch()).max().unwrap_or(0);
        let scratch = (0..target.threads).map(|_| Words::new(words)).collect();
        Ok(Program { steps, inputs, outputs, scratch, memory })
    }
}

/// # Safety
/// The matrix must be a whole buffer of as many words that nobody else touches.
unsafe fn fill(to: Matrix, content: HostView) {
    debug_assert_eq!(to.rows * to.cols, content.elements());
    // SAFETY: promised by the caller.
    unsafe {
        match content {
            HostView::F32(values) => {
                std::slice::from_raw_parts_mut(to.data, values.len()).copy_from_slice(values)
            }
            HostView::I32(values) => to.integers_mut().copy_from_slice(values),
            HostView::Bool(values) => {
                to.integers_mut().iter_mut().zip(values).for_each(|(word, &value)| *word = i32::from(value));
            }
        }
    }
}
