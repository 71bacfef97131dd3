//! Turns a graph into a [`Program`]: a place for every value, kernels for the nodes (`fuse`, `lower`), weights packed
//! (`load`).
//!
//! Nodes first become drafts, which know the buffers they touch but not where these are; once all drafts are known,
//! the arena is planned and the drafts become steps. Nodes of weights and constants alone are run once, here and in f32.

use std::collections::HashMap;
use std::sync::Arc;

use super::fuse::Fusion;
use super::kernels::product::Precision;
use super::kernels::shape::Copy;
use super::kernels::{Isa, Kernel, Step, compiled};
use super::layout::{Addresses, BufferId, Home, Layout, PackedView, View};
use super::load::Loader;
use super::lower::PackedSegment;
use super::memory::{Matrix, Words};
use super::program::{NamedStep, Program, Slot, run_steps};
use crate::device::DeviceError;
use crate::device::sections::Sections;
use crate::graph::{Graph, HostTensor, HostView, Source, TensorType, ValueId};

/// Resident values of a device: name to type and memory.
pub(super) type Residents = HashMap<String, (TensorType, Words)>;

/// What a compilation needs to know of the device.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub isa: Isa,
    pub threads: usize,
    /// Of the weights.
    pub precision: Precision,
}

type Bind = Box<dyn FnOnce(&Addresses) -> Box<dyn Step>>;

struct Draft {
    /// The node that it computes, by number.
    node: usize,
    touches: Vec<BufferId>,
    bind: Bind,
}

pub(super) struct Compiler<'a> {
    pub graph: &'a Graph,
    pub target: Target,
    pub loader: Loader<'a>,
    pub layout: Layout,
    pub fusion: Fusion,
    drafts: Vec<Draft>,
    /// What is run once, before the program is.
    once: Vec<Draft>,
    /// By value: made of weights and constants alone.
    constant: Vec<bool>,
    /// The node that is being lowered, and whether it is constant.
    pub current: (usize, bool),
    /// Contents of constants and small weights.
    contents: Vec<(View, HostTensor)>,
    /// Values that are there packed for products.
    pub packed_rows: HashMap<(ValueId, Precision), PackedView>,
    /// Past keys and values that are there packed for attentions.
    pub packed_pasts: HashMap<(ValueId, ValueId), PackedSegment>,
    /// Vocabulary size that each token list is looked up in.
    pub limits: HashMap<ValueId, i32>,
}

/// Compiles `graph`. Resident values that it leaves are added to `residents`; `arena` is shared with earlier programs
/// where it is large enough.
pub(super) fn compile(
    graph: &Graph,
    target: Target,
    loader: Loader,
    residents: &mut Residents,
    arena: &mut Option<Arc<Words>>,
) -> Result<Program, DeviceError> {
    let constant = graph.constants();
    let mut compiler = Compiler {
        graph,
        target,
        loader,
        layout: Layout::new(graph.values.len()),
        fusion: Fusion::of(graph, &constant),
        drafts: Vec::new(),
        once: Vec::new(),
        constant,
        current: (0, false),
        contents: Vec::new(),
        packed_rows: HashMap::new(),
        packed_pasts: HashMap::new(),
        limits: HashMap::new(),
    };
    for (id, value) in graph.inputs() {
        compiler.layout.place(id, &value.ty, Home::Pinned);
    }
    compiler.find_residents(residents)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        if !compiler.constant[node.result.index()] && !compiler.fusion.absorbed[index] {
            compiler.current = (index, false);
            compiler.node(index)?;
        }
    }
    compiler.results(residents)?;
    compiler.finish(residents, arena)
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

    /// Where a value's rows are; constants and small weights get their place when first read.
    pub fn view(&mut self, id: ValueId) -> Result<View, DeviceError> {
        if let Some(view) = self.layout.get(id) {
            return Ok(view);
        }
        let value = self.graph.value(id);
        let content = match &value.source {
            Source::Constant(tensor) => tensor.clone(),
            Source::Weight { key, stored } => HostTensor::F32(self.loader.plain(key, stored)?),
            Source::Node(index) if self.constant[id.index()] => return self.constant_view(*index, id),
            Source::Input | Source::Resident | Source::Node(_) => return Err(self.out_of_order(id)),
        };
        let view = self.layout.place(id, &value.ty, Home::Pinned);
        self.contents.push((view, content));
        Ok(view)
    }

    /// Lowers a constant node among what is run once.
    fn constant_view(&mut self, node: usize, result: ValueId) -> Result<View, DeviceError> {
        let interrupted = std::mem::replace(&mut self.current, (node, true));
        let lowered = self.node(node);
        self.current = interrupted;
        lowered?;
        self.layout.get(result).ok_or_else(|| self.out_of_order(result))
    }

    fn out_of_order(&self, id: ValueId) -> DeviceError {
        DeviceError::Order { graph: self.graph.name.clone(), value: self.graph.value(id).name.clone() }
    }

    /// Where the buffers of the node that is being lowered are.
    pub fn home(&self) -> Home {
        if self.current.1 { Home::Pinned } else { Home::Arena }
    }

    /// How the node that is being lowered stores its weights.
    pub fn weight_precision(&self) -> Precision {
        if self.current.1 { Precision::F32 } else { self.target.precision }
    }

    /// How it stores what it multiplies with them, and with each other.
    pub fn precision(&self) -> Precision {
        self.target.isa.rows(self.weight_precision())
    }

    /// Adds a kernel that touches `views` and is made when they have addresses.
    pub fn draft<K: Kernel + 'static>(
        &mut self,
        views: impl IntoIterator<Item = View>,
        kernel: impl FnOnce(&Addresses) -> K + 'static,
    ) {
        let isa = self.target.isa;
        let (node, constant) = self.current;
        let touches = views.into_iter().map(|view| view.buffer).collect();
        let bind: Bind = Box::new(move |addresses| compiled(kernel(addresses), isa));
        let drafts = if constant { &mut self.once } else { &mut self.drafts };
        drafts.push(Draft { node, touches, bind });
    }

    /// Makes outputs and residents survive the run.
    fn results(&mut self, residents: &mut Residents) -> Result<(), DeviceError> {
        for binding in &self.graph.residents {
            let ty = &self.graph.value(binding.value).ty;
            let view = self.view(binding.value)?;
            if !self.layout.make_resident(view, &binding.name) {
                let copy = self.layout.buffer(ty.rows(), ty.columns(), Home::Resident(binding.name.clone()));
                let threads = self.target.threads;
                self.draft([copy, view], move |at| Copy {
                    x: at.matrix(view),
                    out: at.matrix(copy),
                    threads,
                });
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

    fn finish(self, residents: &Residents, arena: &mut Option<Arc<Words>>) -> Result<Program, DeviceError> {
        let Self { graph, target, loader, layout, drafts, once, contents, limits, .. } = self;
        let touched: Vec<Vec<BufferId>> = drafts.iter().map(|draft| draft.touches.clone()).collect();
        let resident = |name: &str| match residents.get(name) {
            Some((_, words)) => words.as_ptr(),
            None => std::ptr::null_mut(),
        };
        let (memory, addresses) = layout.allocate(&touched, resident, arena, loader.memory);
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
        let bind = |drafts: Vec<Draft>| -> Vec<NamedStep> {
            let named = |draft: Draft| NamedStep {
                node: graph.nodes[draft.node].name.clone(),
                step: (draft.bind)(&addresses),
            };
            drafts.into_iter().map(named).collect()
        };
        let (once, steps) = (bind(once), bind(drafts));
        let words = once.iter().chain(&steps).map(|named| named.step.scratch()).max().unwrap_or(0);
        let scratch: Vec<Words> = (0..target.threads).map(|_| Words::new(words)).collect();
        // Each is done with what it read when it has run.
        once.into_iter().for_each(|step| run_steps(&[step], &scratch, loader.pool));
        let sections = Sections::of(steps.iter().map(|step| &step.node[..]));
        Ok(Program { steps, sections, inputs, outputs, scratch, memory })
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
