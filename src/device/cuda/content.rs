//! What a GPU's buffers hold from the start: weights, stacked where one product reads several, and small lists that the lowering
//! makes. Called by `lower`, which describes them, and by whoever uploads them.

use half::bf16;

use super::program::Element;
use crate::device::DeviceError;
use crate::device::constants::{self, Elements};
use crate::graph::{Graph, Op, Source, ValueId, Weights, are_finite};

pub use crate::device::constants::Computed;

/// Elements that are converted at a time.
const PIECE: usize = 1 << 20;

/// The contents of a buffer.
#[derive(Clone, Debug)]
pub struct Content {
    key: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    F32(Vec<f32>),
    I32(Vec<i32>),
    /// Constant values of the graph, one after another.
    Values(Vec<ValueId>),
}

impl Content {
    /// A list made here. Equal names must mean equal values.
    pub fn numbers(key: String, values: Vec<f32>) -> Self {
        Self { key, what: What::F32(values) }
    }

    /// A list made here. Equal names must mean equal values.
    pub fn integers(key: String, values: Vec<i32>) -> Self {
        Self { key, what: What::I32(values) }
    }

    /// Constant values one after another: matrices stacked, lists joined. A value that is itself joined of others is these.
    pub fn values(graph: &Graph, values: &[ValueId]) -> Self {
        let mut parts = Vec::new();
        values.iter().for_each(|&value| joined_of(graph, value, &mut parts));
        let key = parts.iter().map(|&part| graph.recipe(part)).collect::<Vec<_>>().join("; ");
        Self { key, what: What::Values(parts) }
    }

    /// The same for equal contents, in this and other graphs of the same checkpoint.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Number of elements.
    pub fn elements(&self, graph: &Graph) -> usize {
        match &self.what {
            What::F32(values) => values.len(),
            What::I32(values) => values.len(),
            What::Values(values) => values.iter().map(|&value| graph.value(value).ty.elements()).sum(),
        }
    }

    /// Calls `with` with the bytes as `element`, piece by piece, each with its first byte's place.
    pub fn write(
        &self,
        graph: &Graph,
        computed: &Computed,
        weights: &dyn Weights,
        element: Element,
        mut with: impl FnMut(usize, &[u8]) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut place = 0;
        let mut bytes = Vec::new();
        let mut put = |values: &[f32]| {
            bytes.clear();
            match element {
                Element::Bf16 => {
                    bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()));
                }
                _ => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            }
            with(place, &bytes)?;
            place += bytes.len();
            Ok(())
        };
        match &self.what {
            What::I32(values) => {
                with(0, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
            }
            What::F32(values) => put(values),
            What::Values(values) => values.iter().try_for_each(|&value| {
                let source = Elements::of(graph, value, computed, weights)?;
                let elements = graph.value(value).ty.elements();
                let mut piece = vec![0.0; PIECE.min(elements)];
                for start in (0..elements).step_by(PIECE) {
                    let piece = &mut piece[..PIECE.min(elements - start)];
                    source.copy(start, piece);
                    if !are_finite(piece) {
                        source.check_finite()?;
                    }
                    put(piece)?;
                }
                source.release();
                Ok(())
            }),
        }
    }

    /// The values that must be computed before [`Self::write`].
    fn to_compute(&self, graph: &Graph) -> Vec<ValueId> {
        let What::Values(values) = &self.what else { return Vec::new() };
        let made = |value: &ValueId| matches!(graph.value(*value).source, Source::Node(_));
        values.iter().copied().filter(made).collect()
    }
}

/// What a value is joined of along its rows, or itself.
fn joined_of(graph: &Graph, value: ValueId, parts: &mut Vec<ValueId>) {
    match graph.value(value).source {
        Source::Node(index) if graph.nodes[index].op == (Op::Concat { axis: 0 }) => {
            graph.nodes[index].operands.iter().for_each(|&part| joined_of(graph, part, parts));
        }
        _ => parts.push(value),
    }
}

/// Computes what these contents and `further` values are made of, all at once.
pub fn compute<'a>(
    graph: &Graph,
    contents: impl IntoIterator<Item = &'a Content>,
    further: impl IntoIterator<Item = ValueId>,
    weights: &dyn Weights,
) -> Result<Computed, DeviceError> {
    let mut wanted: Vec<ValueId> =
        contents.into_iter().flat_map(|content| content.to_compute(graph)).chain(further).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(Computed::new());
    }
    let values = constants::compute(graph, &wanted, weights)?;
    Ok(wanted.into_iter().zip(values).collect())
}
