//! Runs the model's programs and times them, as a whole and node by node.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::device::{Device, DeviceError, ProgramId, Progress, Silent};
use crate::graph::{Cost, Graph, GraphBuilder, HostTensor, HostView, TensorType, Weights};
use crate::policy::checkpoint::random::RandomWeights;
use crate::policy::example::ExampleInputs;
use crate::policy::{Intermediates, PolicyConfig, PolicyGraphs};

/// Part of a run, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Siglip,
    Prefix,
    /// What stands before the loop.
    Prepare,
    Step(usize),
}

impl Stage {
    /// The stage of a node, by its name path.
    fn of(graph: &Graph, node: &str) -> Self {
        if graph.name == "perceive" {
            let vision = node.starts_with("vision.") || node.starts_with("projector");
            return if vision { Self::Siglip } else { Self::Prefix };
        }
        let step = node.strip_prefix("steps.").and_then(|rest| rest.split('.').next()?.parse().ok());
        step.map_or(Self::Prepare, Self::Step)
    }
}

/// What was measured, each list with one number per run.
#[derive(Debug, Default)]
pub struct Times {
    pub total_ms: Vec<f64>,
    /// The same with all inputs written before and the actions read after it: what the host sees of a cycle.
    pub cycle_ms: Vec<f64>,
    pub act_ms: Vec<f64>,
    pub stages: BTreeMap<Stage, (Cost, Vec<f64>)>,
    /// By name with `*` for numbers, and kernel: milliseconds of a run on average, and how many there are.
    pub nodes: BTreeMap<String, (f64, usize)>,
}

/// The model on a device, ready to be measured.
pub struct Bench<'a> {
    device: &'a mut dyn Device,
    programs: [(ProgramId, Graph); 2],
    /// What the host writes.
    inputs: Vec<(ProgramId, String, HostTensor)>,
}

impl<'a> Bench<'a> {
    pub fn compile(
        device: &'a mut dyn Device,
        config: &PolicyConfig,
        cameras: usize,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> anyhow::Result<Self> {
        let PolicyGraphs { perceive, act } =
            PolicyGraphs::rewritten(config, cameras, &Intermediates::None, |graph| device.simplify(graph))?;
        let programs = [
            (device.compile(&perceive, weights, progress)?, perceive),
            (device.compile(&act, weights, progress)?, act),
        ];
        Ok(Self { device, programs, inputs: Vec::new() })
    }

    /// Numbers of the right kind: images in [-1, 1], all cameras there, `tokens` real tokens, noise.
    pub fn make_inputs(&mut self, tokens: usize) {
        let mut example = ExampleInputs::new(tokens);
        for (program, graph) in &self.programs {
            let inputs = graph.inputs().map(|(_, value)| (*program, value.name.clone(), example.of(value)));
            self.inputs.extend(inputs);
        }
    }

    fn write_inputs(&mut self) -> Result<(), DeviceError> {
        let mut inputs = self.inputs.iter();
        inputs.try_for_each(|(program, name, value)| self.device.write(*program, name, value.view()))
    }

    /// As the control loop does it: nobody waits in between.
    fn run(&mut self) -> Result<(), DeviceError> {
        let [(perceive, _), (act, _)] = &self.programs;
        self.device.start(*perceive)?;
        self.device.start(*act)?;
        self.device.wait()
    }

    /// One run to warm up, then `runs` as they are, as many with inputs and actions, and as many with every node timed.
    pub fn measure(&mut self, runs: usize) -> Result<Times, DeviceError> {
        let mut times = Times::default();
        let [perceive, act] = [0, 1].map(|index| self.programs[index].0);
        self.write_inputs()?;
        for run in 0..=runs {
            let start = Instant::now();
            self.run()?;
            let total = start.elapsed().as_secs_f64() * 1e3;
            if run > 0 {
                // The device's own, where it is not waited for in between.
                let perceive = self.device.time(perceive).as_secs_f64() * 1e3;
                times.act_ms.push(total - perceive);
                times.total_ms.push(total);
            }
        }
        let binding = &self.programs[1].1.outputs[0];
        let (name, mut actions) =
            (binding.name.clone(), HostTensor::zeros(&self.programs[1].1.value(binding.value).ty));
        for _ in 0..runs {
            let start = Instant::now();
            self.write_inputs()?;
            self.run()?;
            self.device.read(act, &name, &mut actions)?;
            times.cycle_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        for (program, graph) in &self.programs {
            let constant = graph.constants();
            for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
                times.stages.entry(Stage::of(graph, &node.name)).or_default().0 += graph.cost(node);
            }
            for _ in 0..runs {
                let mut run: BTreeMap<Stage, f64> = BTreeMap::new();
                for step in self.device.profile(*program)? {
                    let ms = step.time.as_secs_f64() * 1e3;
                    *run.entry(Stage::of(graph, &step.node)).or_default() += ms;
                    let kind = format!("{} ({})", without_numbers(&step.node), step.kernel);
                    let (sum, count) = times.nodes.entry(kind).or_default();
                    *sum += ms / runs as f64;
                    *count += 1;
                }
                for (stage, ms) in run {
                    times.stages.entry(stage).or_default().1.push(ms);
                }
            }
        }
        times.nodes.values_mut().for_each(|(_, count)| *count /= runs);
        Ok(times)
    }
}

/// `layers.3.attn` -> `layers.*.attn`
fn without_numbers(name: &str) -> String {
    let parts = name.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Operations per second of one product `[m, k] x [k, n]` on the device, x packed each time; best of several.
pub fn matmul(device: &mut dyn Device, [m, k, n]: [usize; 3]) -> anyhow::Result<f64> {
    const REPEATS: usize = 7;
    let mut b = GraphBuilder::new("matmul");
    let x = b.input("x", TensorType::f32([m, k]));
    let weight = b.weight("matmul.weight", &[n, k]);
    let y = b.linear("product", x, weight, None)?;
    b.output("y", y);
    let graph = b.finish();
    let program = device.compile(&graph, &RandomWeights, &Silent)?;
    device.write(program, "x", HostView::F32(&vec![0.5; m * k]))?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        device.run(program)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (m * k * n) as f64 / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_stage() {
        let config = PolicyConfig { denoising_steps: 3, ..PolicyConfig::TINY };
        let graphs = PolicyGraphs::build(&config, 1, &Intermediates::None).unwrap();
        let of = |name: &str, graph: &Graph| Stage::of(graph, name);
        assert_eq!(of("vision.layers.0.attn.norm", &graphs.perceive), Stage::Siglip);
        assert_eq!(of("projector", &graphs.perceive), Stage::Siglip);
        assert_eq!(of("vlm.layers.1.mlp.gated", &graphs.perceive), Stage::Prefix);
        assert_eq!(of("steps.2.euler_step", &graphs.act), Stage::Step(2));
        assert_eq!(of("rotary_table", &graphs.act), Stage::Prepare);
    }

    /// Figures worked out by hand from the sizes of pi0 (three cameras: 816 prefix tokens; 50 actions).
    #[test]
    fn full_size_pi0_costs_what_its_sizes_say() {
        let graphs = PolicyGraphs::build(&PolicyConfig::PI0, 3, &Intermediates::None).unwrap();
        let mut costs: BTreeMap<Stage, f64> = BTreeMap::new();
        for graph in [&graphs.perceive, &graphs.act] {
            let constant = graph.constants();
            for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
                *costs.entry(Stage::of(graph, &node.name)).or_default() += graph.cost(node).flops as f64;
            }
        }
        let vision = 27.0 * 2.0 * 768.0 * (4.0 * 1152.0 * 1152.0 + 2.0 * 1152.0 * 4304.0);
        let prefix = 17.0 * 2.0 * 816.0 * (2048.0 * (2560.0 + 2048.0) + 3.0 * 2048.0 * 16384.0);
        let step = 18.0 * 2.0 * 50.0 * (1024.0 * (2560.0 + 2048.0) + 3.0 * 1024.0 * 4096.0);
        // Attention, norms and the small linears are the rest.
        for (stage, least, most) in
            [(Stage::Siglip, vision, 1.07), (Stage::Prefix, prefix, 1.06), (Stage::Step(5), step, 1.25)]
        {
            let found = costs[&stage];
            assert!((least..most * least).contains(&found), "{stage:?}: {found:e}, {least:e}");
        }
    }
}
