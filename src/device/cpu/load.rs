//! Brings weights from the checkpoint into the form the kernels read, on all threads and with progress. A mapped file's
//! pages are given back as soon as they are packed, so that a checkpoint never stands in memory twice. Called by
//! `compile`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::kernels::product::Precision;
use super::memory::LargeMemory;
use super::pool::Pool;
use super::weight::PackedWeight;
use crate::device::{DeviceError, Progress};
use crate::graph::{Graph, Op, Source, ValueId, WeightData, WeightError, Weights, are_finite};

/// Packed weights by recipe, shape and precision: those that two programs share are packed once.
pub(super) type PackedWeights = HashMap<(String, [usize; 2], Precision), Arc<PackedWeight>>;

/// Where a compilation gets its weights.
pub(super) struct Loader<'a> {
    pub weights: &'a dyn Weights,
    pub progress: &'a dyn Progress,
    pub pool: &'a mut Pool,
    pub packed: &'a mut PackedWeights,
    pub memory: &'a mut LargeMemory,
    /// Recipes of what was left where it is stored, by this compilation.
    pub stored: HashSet<String>,
}

impl Loader<'_> {
    /// A weight as it is stored, widened to f32.
    pub fn plain(&mut self, key: &str, stored: &[usize]) -> Result<Vec<f32>, DeviceError> {
        let data = self.weights.weight(key, stored)?;
        let mut values = vec![0.0; data.elements()];
        data.copy_f32(0, &mut values);
        if !are_finite(&values) {
            check_finite(key, &data)?;
        }
        self.progress.advance(data.stored_bytes());
        Ok(values)
    }

    /// The weight `[out, in]` that is `value` of `graph`, packed.
    pub fn packed(
        &mut self,
        graph: &Graph,
        value: ValueId,
        precision: Precision,
    ) -> Result<Arc<PackedWeight>, DeviceError> {
        let ty = &graph.value(value).ty;
        let (outputs, depth) = (ty.rows(), ty.columns());
        let key = (graph.recipe(value), [outputs, depth], precision);
        if let Some(packed) = self.packed.get(&key) {
            return Ok(packed.clone());
        }
        let weight = WeightRows::of(graph, value, self.weights)?;
        let packed = Arc::new(PackedWeight::new(precision, depth, outputs, self.memory));
        let finite = AtomicBool::new(true);
        self.pool.run(packed.panels().count(), &|panel, _| {
            // SAFETY: every panel has one task.
            unsafe {
                packed.fill_panel(panel, |output, column, values| {
                    weight.copy(output, column, values);
                    // While they are at hand, this costs next to nothing.
                    if !are_finite(values) {
                        finite.store(false, Relaxed);
                    }
                })
            }
        });
        if !finite.into_inner() {
            weight.check_finite()?;
        }
        weight.release();
        self.progress.advance((outputs * depth * weight.element_bytes()) as u64);
        self.packed.insert(key, packed.clone());
        Ok(packed)
    }

    /// The weight `[out, in]` that is `value` of `graph`, left where it is stored.
    pub fn stored(&mut self, graph: &Graph, value: ValueId) -> Result<WeightRows, DeviceError> {
        let weight = WeightRows::of(graph, value, self.weights)?;
        // A weight that many nodes read is loaded once, as far as people are told.
        if self.stored.insert(graph.recipe(value)) {
            let elements = graph.value(value).ty.elements();
            self.progress.advance((elements * weight.element_bytes()) as u64);
        }
        Ok(weight)
    }

    /// A table `[rows, columns]` left in its file, of which the pages that only this looked at are given back.
    pub fn mapped(&mut self, key: &str, stored: &[usize]) -> Result<WeightData, DeviceError> {
        const ROWS: usize = 256;
        let data = self.weights.weight(key, stored)?;
        let columns = stored.last().copied().unwrap_or(1).max(1);
        let finite = AtomicBool::new(true);
        self.pool.run((data.elements() / columns).div_ceil(ROWS), &|task, _| {
            let start = task * ROWS * columns;
            let end = (start + ROWS * columns).min(data.elements());
            if data.first_not_finite_in(start..end).is_some() {
                finite.store(false, Relaxed);
            }
            data.release_in(start..end);
        });
        if !finite.into_inner() {
            check_finite(key, &data)?;
        }
        self.progress.advance(data.stored_bytes());
        Ok(data)
    }
}

/// The rows of a weight `[out, in]`, as the graph puts it together from the checkpoint's tensors.
pub(super) enum WeightRows {
    Stored {
        key: String,
        data: WeightData,
        columns: usize,
    },
    /// One after another.
    Stacked(Vec<(usize, WeightRows)>),
    /// Columns from `start` on.
    Columns {
        start: usize,
        of: Box<WeightRows>,
    },
}

impl WeightRows {
    fn of(graph: &Graph, id: ValueId, weights: &dyn Weights) -> Result<Self, DeviceError> {
        let value = graph.value(id);
        let node = match &value.source {
            Source::Weight { key, stored } => {
                let data = weights.weight(key, stored)?;
                return Ok(Self::Stored { key: key.clone(), data, columns: value.ty.columns() });
            }
            Source::Node(index) => Some(&graph.nodes[*index]),
            Source::Constant(_) | Source::Input | Source::Resident => None,
        };
        match node.map(|node| (&node.op, &node.operands[..])) {
            Some((Op::Concat { axis: 0 }, parts)) => parts
                .iter()
                .map(|&part| Ok((graph.value(part).ty.rows(), Self::of(graph, part, weights)?)))
                .collect::<Result<_, _>>()
                .map(Self::Stacked),
            Some((Op::Slice { axis: 1, start, .. }, &[whole])) => {
                Ok(Self::Columns { start: *start, of: Box::new(Self::of(graph, whole, weights)?) })
            }
            _ => Err(DeviceError::Unsupported {
                node: value.name.clone(),
                what: "a linear whose weight is not made of tensors of the checkpoint".into(),
            }),
        }
    }

    /// Columns from `column` on of row `row`.
    pub fn copy(&self, mut row: usize, column: usize, out: &mut [f32]) {
        match self {
            Self::Stored { data, columns, .. } => data.copy_f32(row * columns + column, out),
            Self::Stacked(parts) => {
                for (rows, part) in parts {
                    if row < *rows {
                        return part.copy(row, column, out);
                    }
                    row -= rows;
                }
            }
            Self::Columns { start, of } => of.copy(row, start + column, out),
        }
    }

    /// Calls `with` for every tensor.
    fn each(&self, with: &mut impl FnMut(&str, &WeightData)) {
        match self {
            Self::Stored { key, data, .. } => with(key, data),
            Self::Stacked(parts) => parts.iter().for_each(|(_, part)| part.each(with)),
            Self::Columns { of, .. } => of.each(with),
        }
    }

    /// Size of a stored element: of the largest, where tensors differ.
    fn element_bytes(&self) -> usize {
        let mut bytes = 0;
        self.each(&mut |_, data| bytes = bytes.max(data.format().bytes()));
        bytes
    }

    /// Gives the pages back that were read.
    pub fn release(&self) {
        self.each(&mut |_, data| data.release());
    }

    /// Names the first tensor that has an element which is no finite number.
    #[cold]
    fn check_finite(&self) -> Result<(), WeightError> {
        let mut checked = Ok(());
        self.each(&mut |key, data| {
            if checked.is_ok() {
                checked = check_finite(key, data);
            }
        });
        checked
    }
}

/// Names the first element that is no finite number.
#[cold]
fn check_finite(key: &str, data: &WeightData) -> Result<(), WeightError> {
    match data.first_not_finite() {
        Some(found) => Err(WeightError { key: key.to_owned(), message: found.to_string() }),
        None => Ok(()),
    }
}
