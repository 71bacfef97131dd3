//! Asks a device for any values of the model's graphs: makes them outputs, compiles, runs, reads. Part of `verify`.

use crate::device::{Account, Device, DeviceError, ProgramId, Progress};
use crate::graph::{Binding, Graph, HostTensor, ValueId, Weights};
use crate::policy::example::ExampleInputs;
use crate::policy::{PolicyConfig, PolicyGraphs};

/// A model that is to be compared.
pub struct Model<'a> {
    pub config: PolicyConfig,
    pub cameras: usize,
    pub weights: &'a dyn Weights,
}

/// One of the two graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Perceive,
    Act,
}

impl Program {
    pub fn of(self, graphs: &PolicyGraphs) -> &Graph {
        match self {
            Self::Perceive => &graphs.perceive,
            Self::Act => &graphs.act,
        }
    }
}

/// A value of one of the graphs as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub program: Program,
    pub value: ValueId,
}

/// A device with the model's perceive program on it.
pub struct Asked<'a> {
    device: &'a mut dyn Device,
    graphs: &'a PolicyGraphs,
    weights: &'a dyn Weights,
    progress: &'a dyn Progress,
    /// What the host writes, by graph.
    inputs: [Vec<(String, HostTensor)>; 2],
    /// Makes what `act` finds; none until a value of `act` has been asked for.
    perceive: Option<ProgramId>,
}

impl<'a> Asked<'a> {
    pub fn new(
        device: &'a mut dyn Device,
        graphs: &'a PolicyGraphs,
        weights: &'a dyn Weights,
        tokens: usize,
        progress: &'a dyn Progress,
    ) -> Self {
        let mut example = ExampleInputs::new(tokens);
        let inputs = [&graphs.perceive, &graphs.act].map(|graph| {
            graph.inputs().map(|(_, value)| (value.name.clone(), example.of(value))).collect::<Vec<_>>()
        });
        Self { device, graphs, weights, progress, inputs, perceive: None }
    }

    pub fn describe(&self) -> String {
        self.device.describe()
    }

    /// The values of both graphs, computed by one program each.
    pub fn all(&mut self, places: &[Place]) -> Result<(Vec<HostTensor>, Account), DeviceError> {
        let of = |program| -> Vec<ValueId> {
            places.iter().filter(|place| place.program == program).map(|place| place.value).collect()
        };
        let (perceive, act) = (of(Program::Perceive), of(Program::Act));
        let (perceive_id, perceive_values) = self.compile_and_run(Program::Perceive, &perceive, true)?;
        self.perceive = Some(perceive_id);
        let (act_id, act_values) = self.compile_and_run(Program::Act, &act, true)?;
        let (mut perceive, mut act) = (perceive_values.into_iter(), act_values.into_iter());
        let values = places.iter().filter_map(|place| match place.program {
            Program::Perceive => perceive.next(),
            Program::Act => act.next(),
        });
        Ok((values.collect(), self.device.account(act_id)?))
    }

    /// Values of one graph, computed by a program that computes nothing but these.
    pub fn some(&mut self, program: Program, values: &[ValueId]) -> Result<Vec<HostTensor>, DeviceError> {
        if let (Program::Act, Some(perceive)) = (program, self.perceive) {
            self.write(perceive, Program::Perceive)?;
            self.device.run(perceive)?;
        }
        Ok(self.compile_and_run(program, values, false)?.1)
    }

    fn compile_and_run(
        &mut self,
        program: Program,
        values: &[ValueId],
        keep_residents: bool,
    ) -> Result<(ProgramId, Vec<HostTensor>), DeviceError> {
        let name = |value: &ValueId| format!("value {}", value.index());
        let mut graph = program.of(self.graphs).clone();
        graph.outputs = values.iter().map(|value| Binding { name: name(value), value: *value }).collect();
        if !keep_residents {
            graph.residents.clear();
        }
        let simplified = self
            .device
            .simplify(graph.clone())
            .map_err(|error| DeviceError::Unsupported { node: error.node, what: error.message })?;
        let id = self.device.compile(&simplified, self.weights, self.progress)?;
        self.write(id, program)?;
        self.device.run(id)?;
        // Twice, because the second run finds buffers as the first one left them.
        self.device.run(id)?;
        let read = values.iter().map(|value| {
            let mut out = HostTensor::zeros(&graph.value(*value).ty);
            self.device.read(id, &name(value), &mut out)?;
            Ok(out)
        });
        let read = read.collect::<Result<_, DeviceError>>()?;
        Ok((id, read))
    }

    fn write(&mut self, id: ProgramId, program: Program) -> Result<(), DeviceError> {
        for (name, value) in &self.inputs[program as usize] {
            self.device.write(id, name, value.view())?;
        }
        Ok(())
    }
}
