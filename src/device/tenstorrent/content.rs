//! What a card's tensors hold from the start: weights as the library wants them (transposed, padded, in the places that the
//! lowering chose), and small matrices that the lowering makes. Called by `lower`, which describes them, and by whoever
//! uploads or stores them.

use half::bf16;

use super::axis::Axis;
use crate::device::DeviceError;
use crate::device::constants::{Computed, Elements};
use crate::graph::{Graph, ValueId, Weights, are_finite};

/// Rows of a weight that are turned into columns at a time.
const BLOCK: usize = 32;

/// The contents of a tensor, as rows and columns.
#[derive(Clone, Debug)]
pub struct Content {
    key: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Literal(Vec<f32>),
    Weight(Box<Weight>),
    /// Several, side by side: each with its number of columns.
    Beside(Vec<(usize, Content)>),
}

/// A constant value of the graph, `scale * w + plus` in its places and 0 elsewhere; each output of a linear may have its own
/// scale.
#[derive(Clone, Debug)]
struct Weight {
    value: ValueId,
    rows: Axis,
    columns: Axis,
    /// The value has so many rows, which are repeated.
    repeated: usize,
    /// Columns become rows.
    transposed: bool,
    scales: Scales,
    /// A constant row of the graph, with whose elements the outputs are multiplied.
    gate: Option<ValueId>,
    plus: f32,
}

/// How many outputs after one another are multiplied with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales(pub Vec<(usize, f32)>);

impl Scales {
    /// The same for `count` outputs.
    pub fn all(count: usize, scale: f32) -> Self {
        Self(vec![(count, scale)])
    }

    fn each(&self) -> Vec<f32> {
        self.0.iter().flat_map(|&(count, scale)| std::iter::repeat_n(scale, count)).collect()
    }
}

impl Content {
    /// A matrix made here. Equal names must mean equal values.
    pub fn literal(key: String, values: Vec<f32>) -> Self {
        Self { key, what: What::Literal(values) }
    }

    /// `weight` `[out, in]` as `[in, out]`, its outputs scaled.
    pub fn factor(graph: &Graph, weight: ValueId, inputs: &Axis, outputs: &Axis, scales: &Scales) -> Self {
        Self::weight(graph, weight, [outputs, inputs], true, scales.clone(), 0.0)
    }

    /// Every output multiplied with the constant row's element for it too.
    pub fn gated(mut self, graph: &Graph, gate: ValueId) -> Self {
        if let What::Weight(weight) = &mut self.what {
            weight.gate = Some(gate);
            self.key = format!("{}, gated by {}", self.key, graph.recipe(gate));
        }
        self
    }

    /// Matrices of as many rows side by side; each comes with its number of columns.
    pub fn beside(parts: Vec<(usize, Self)>) -> Self {
        let keys: Vec<&str> = parts.iter().map(|(_, part)| part.key()).collect();
        Self { key: format!("[{}]", keys.join(" | ")), what: What::Beside(parts) }
    }

    /// A list, or a matrix of one row, as a row: `scale * w + plus`.
    pub fn row(graph: &Graph, weight: ValueId, columns: &Axis, scales: &Scales, plus: f32) -> Self {
        Self::weight(graph, weight, [&Axis::exact(1), columns], false, scales.clone(), plus)
    }

    /// A matrix as it is, times `scale`; its rows are repeated until they fill `rows`.
    pub fn matrix(graph: &Graph, weight: ValueId, rows: &Axis, columns: &Axis, scale: f32) -> Self {
        Self::weight(graph, weight, [rows, columns], false, Scales::all(columns.logical, scale), 0.0)
    }

    fn weight(
        graph: &Graph,
        value: ValueId,
        [rows, columns]: [&Axis; 2],
        transposed: bool,
        scales: Scales,
        plus: f32,
    ) -> Self {
        let repeated = graph.value(value).ty.rows();
        let key = format!(
            "{}; {rows:?} of {repeated}, {columns:?}, transposed {transposed}, * {:?} + {plus}",
            graph.recipe(value),
            scales.0
        );
        let (rows, columns) = (rows.clone(), columns.clone());
        let weight = Weight { value, rows, columns, repeated, transposed, scales, gate: None, plus };
        Self { key, what: What::Weight(Box::new(weight)) }
    }

    /// The same for equal contents, in this and other graphs of the same checkpoint.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The elements, row by row.
    pub fn f32(&self, graph: &Graph, weights: &dyn Weights) -> Result<Vec<f32>, DeviceError> {
        self.elements(graph, weights, 0.0, &|value| value)
    }

    /// The elements rounded to bf16, row by row.
    pub fn bf16(&self, graph: &Graph, weights: &dyn Weights) -> Result<Vec<u16>, DeviceError> {
        self.elements(graph, weights, 0, &|value| bf16::from_f32(value).to_bits())
    }

    fn elements<T: Copy>(
        &self,
        graph: &Graph,
        weights: &dyn Weights,
        zero: T,
        convert: &impl Fn(f32) -> T,
    ) -> Result<Vec<T>, DeviceError> {
        let weight = match &self.what {
            What::Literal(values) => return Ok(values.iter().map(|&value| convert(value)).collect()),
            What::Weight(weight) => weight,
            What::Beside(parts) => {
                let all = parts.iter().map(|(_, part)| part.elements(graph, weights, zero, convert));
                let all = all.collect::<Result<Vec<_>, _>>()?;
                let rows = all[0].len() / parts[0].0;
                let line = |row: usize| {
                    all.iter().zip(parts).flat_map(move |(part, &(width, _))| &part[row * width..][..width])
                };
                return Ok((0..rows).flat_map(line).copied().collect());
            }
        };
        let Weight { rows, columns, repeated, transposed, scales, gate, plus, .. } = &**weight;
        let none = Computed::new();
        let mut scales = scales.each();
        if let Some(gate) = gate {
            let source = Elements::of(graph, *gate, &none, weights)?;
            let mut values = vec![0.0; scales.len()];
            source.copy(0, &mut values);
            scales.iter_mut().zip(values).for_each(|(scale, value)| *scale *= value);
        }
        let source = Elements::of(graph, weight.value, &none, weights)?;
        let width = columns.logical;
        let mut out = vec![zero; rows.physical * columns.physical];
        let mut block = vec![0.0; BLOCK * width];
        for start in (0..rows.logical).step_by(BLOCK) {
            let lines = start..(start + BLOCK).min(rows.logical);
            for (line, values) in lines.clone().zip(block.chunks_mut(width)) {
                source.copy((line % repeated) * width, values);
            }
            if !are_finite(&block) {
                source.check_finite()?;
            }
            if *transposed {
                for column in 0..width {
                    let to = columns.place(column) * rows.physical;
                    for (i, line) in lines.clone().enumerate() {
                        out[to + rows.place(line)] = convert(scales[line] * block[i * width + column] + plus);
                    }
                }
            } else {
                for (i, line) in lines.enumerate() {
                    let to = rows.place(line) * columns.physical;
                    for (column, value) in block[i * width..(i + 1) * width].iter().enumerate() {
                        out[to + columns.place(column)] = convert(scales[column] * value + plus);
                    }
                }
            }
        }
        source.release();
        Ok(out)
    }
}
