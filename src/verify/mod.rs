//! Proves a device: every component of the model on it beside a reference device, value by value and step by step, and where one
//! is off, the first operation that goes wrong. Called by `cli verify`.
//!
//! It knows the trait `Device` and no device. The graphs as written say what there is to compare (`landmarks`), `probe` asks
//! both devices for it, `difference` says how far they are apart, `bisect` finds where that begins.

pub mod bisect;
mod difference;
mod landmarks;
mod probe;
mod report;

use std::collections::BTreeMap;

pub use bisect::FirstOff;
pub use difference::{Difference, Tolerance};
pub use landmarks::Landmark;
pub use probe::{Model, Place, Program};
pub use report::{Line, Report};

use self::bisect::{Judge, candidates, first_off, is_of_prefix};
use self::landmarks::landmarks;
use self::probe::Asked;
use crate::device::{Device, DeviceError, Progress};
use crate::graph::{DType, Graph, GraphError, HostTensor, ValueId};
use crate::policy::{ACTIONS, Component, Intermediates, PolicyGraphs};

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("the reference: {0}")]
    Reference(DeviceError),
    #[error("the device: {0}")]
    Device(DeviceError),
    #[error(
        "the reference itself gives {value} in '{name}' ({component}): the checkpoint's numbers overflow on any device, so that there is \
         nothing to compare. `pi0_node check` looks at its weights; take a checkpoint from before its training diverged"
    )]
    NotFinite { value: f64, name: String, component: Component },
}

/// Compares `device` with `reference` on every component of the model. Without a `tolerance` it is that of the device's
/// weights: f32 or fewer bits.
pub fn verify(
    reference: &mut dyn Device,
    device: &mut dyn Device,
    model: &Model,
    tolerance: Option<Tolerance>,
    progress: &dyn Progress,
) -> Result<Report, VerifyError> {
    let graphs = PolicyGraphs::as_written(&model.config, model.cameras, &Intermediates::All)?;
    let landmarks = landmarks(&graphs);
    let places: Vec<Place> = landmarks.iter().map(|landmark| landmark.place).collect();
    // Some of the prompt is padding, lest a mask that masks nothing pass.
    let tokens = (3 * model.config.prompt_tokens).div_ceil(4);
    let mut reference = Asked::new(reference, &graphs, model.weights, tokens, progress);
    let mut device = Asked::new(device, &graphs, model.weights, tokens, progress);

    // What will run: nothing but the actions is an output.
    let actions = landmarks.iter().position(|landmark| landmark.name == ACTIONS);
    let alone: Vec<Place> = actions.map(|index| places[index]).into_iter().collect();
    let (plain, account) = device.all(&alone).map_err(VerifyError::Device)?;
    let tolerance = tolerance.unwrap_or(match account.weight_element_bytes < 4.0 {
        true => Tolerance::ROUNDED,
        false => Tolerance::F32,
    });
    let (expected, _) = reference.all(&places).map_err(VerifyError::Reference)?;
    let rows =
        Rows { real: valid_rows(model, tokens), prefix_tokens: model.config.prefix_tokens(model.cameras) };
    for (landmark, expected) in landmarks.iter().zip(&expected) {
        if let Some(value) = rows.not_finite(&graphs, landmark.place, expected) {
            let Landmark { name, component, .. } = landmark.clone();
            return Err(VerifyError::NotFinite { value, name, component });
        }
    }
    let (found, _) = device.all(&places).map_err(VerifyError::Device)?;
    let lines: Vec<Line> = landmarks
        .iter()
        .zip(found.iter().zip(&expected))
        .map(|(landmark, (found, expected))| {
            let difference = rows.difference(&graphs, landmark.place, found, expected);
            let passes = allows(tolerance, expected, difference);
            Line { landmark: landmark.clone(), difference, passes }
        })
        .collect();
    let as_it_runs = actions.and_then(|index| {
        let difference = rows.difference(&graphs, places[index], plain.first()?, &expected[index]);
        Some((difference, allows(tolerance, &expected[index], difference)))
    });

    let mut first = None;
    if let Some(wrong) = lines.iter().position(|line| !line.passes) {
        let (right, wrong) = (wrong.checked_sub(1).map(|index| places[index]), places[wrong]);
        let graph = wrong.program.of(&graphs);
        let candidates = candidates(graph, right, wrong);
        let expected = reference.some(wrong.program, &candidates).map_err(VerifyError::Reference)?;
        let expected: BTreeMap<ValueId, HostTensor> = candidates.iter().copied().zip(expected).collect();
        let program = wrong.program;
        let mut judge =
            Asking { graphs: &graphs, device: &mut device, expected, program, rows: &rows, tolerance };
        first = first_off(graph, &candidates, &mut judge);
    }
    Ok(Report {
        device: device.describe(),
        reference: reference.describe(),
        cameras: model.cameras,
        steps: model.config.denoising_steps,
        tolerance,
        lines,
        as_it_runs,
        first_off: first,
    })
}

fn allows(tolerance: Tolerance, expected: &HostTensor, difference: Difference) -> bool {
    match expected.view().dtype() {
        DType::F32 => tolerance.allows(difference),
        DType::I32 | DType::Bool => difference.largest == 0.0,
    }
}

/// Which tokens of the prefix are real: what the others hold is nobody's business, since no real one sees them.
struct Rows {
    real: Vec<bool>,
    prefix_tokens: usize,
}

fn valid_rows(model: &Model, tokens: usize) -> Vec<bool> {
    let image_tokens = model.config.prefix_tokens(model.cameras) - model.config.prompt_tokens;
    (0..image_tokens + model.config.prompt_tokens).map(|row| row < image_tokens + tokens).collect()
}

impl Rows {
    fn difference(
        &self,
        graphs: &PolicyGraphs,
        place: Place,
        found: &HostTensor,
        expected: &HostTensor,
    ) -> Difference {
        let is_real = self.real_elements(graphs, place);
        let pairs = numbers(found).into_iter().zip(numbers(expected)).enumerate();
        Difference::of(&pairs.filter(|(index, _)| is_real(*index)).map(|(_, pair)| pair).collect::<Vec<_>>())
    }

    /// The first element that is infinite or no number.
    fn not_finite(&self, graphs: &PolicyGraphs, place: Place, value: &HostTensor) -> Option<f64> {
        let is_real = self.real_elements(graphs, place);
        let mut elements = numbers(value).into_iter().enumerate();
        elements.find(|(index, element)| !element.is_finite() && is_real(*index)).map(|(_, element)| element)
    }

    /// Whether the element of this number in a value is of a real token.
    fn real_elements(&self, graphs: &PolicyGraphs, place: Place) -> impl Fn(usize) -> bool {
        let graph: &Graph = place.program.of(graphs);
        let masked = is_of_prefix(graph, place.program, place.value, self.prefix_tokens);
        let width = graph.value(place.value).ty.elements() / graph.shape(place.value)[0].max(1);
        move |index| !masked || self.real[index / width.max(1)]
    }
}

/// The elements as numbers.
fn numbers(tensor: &HostTensor) -> Vec<f64> {
    match tensor {
        HostTensor::F32(values) => values.iter().map(|&value| f64::from(value)).collect(),
        HostTensor::I32(values) => values.iter().map(|&value| f64::from(value)).collect(),
        HostTensor::Bool(values) => values.iter().map(|&value| f64::from(u8::from(value))).collect(),
    }
}

/// Asks the device for one value at a time.
struct Asking<'a, 'd> {
    graphs: &'a PolicyGraphs,
    device: &'a mut Asked<'d>,
    expected: BTreeMap<ValueId, HostTensor>,
    program: Program,
    rows: &'a Rows,
    tolerance: Tolerance,
}

impl Judge for Asking<'_, '_> {
    fn difference(&mut self, value: ValueId) -> Option<Difference> {
        let expected = self.expected.get(&value)?;
        // A device need not be able to hand out everything that it computes.
        let found = self.device.some(self.program, &[value]).ok()?;
        let place = Place { program: self.program, value };
        Some(self.rows.difference(self.graphs, place, found.first()?, expected))
    }

    fn is_off(&self, value: ValueId, difference: Difference) -> bool {
        self.expected.get(&value).is_some_and(|expected| !allows(self.tolerance, expected, difference))
    }
}
