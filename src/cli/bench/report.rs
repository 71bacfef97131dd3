//! What was measured, as a table for people and as JSON for scripts.

use serde_json::{Value, json};

use super::measure::{Stage, Times};
use crate::device::Peak;
use crate::device::cpu::Precision;
use crate::graph::Cost;

pub struct Report {
    pub model: String,
    pub cameras: usize,
    pub precision: Precision,
    pub device: String,
    pub threads: usize,
    pub peak: Option<Peak>,
    pub steps: usize,
    /// Real tokens of the prompt, and with padding.
    pub prompt_tokens: usize,
    pub padded_prompt: usize,
    pub compile_s: f64,
    pub times: Times,
    /// Rows, depth and columns, and operations per second.
    pub matmuls: Vec<([usize; 3], f64)>,
    pub peak_rss_bytes: Option<u64>,
}

/// A line of the table.
struct Line {
    name: String,
    cost: Cost,
    ms: Vec<f64>,
}

impl Line {
    fn median_ms(&self) -> f64 {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// The time that one run in a hundred exceeds.
    fn p99_ms(&self) -> f64 {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * 0.99).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    fn best_ms(&self) -> f64 {
        self.ms.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl Report {
    /// `step` is the mean of a run's steps; `act` is all of them, and what stands before the loop.
    fn lines(&self) -> Vec<Line> {
        let stages = &self.times.stages;
        let one = |stage: Stage| stages.get(&stage).cloned().unwrap_or_default();
        let steps: Vec<(Cost, Vec<f64>)> = (0..self.steps).map(|step| one(Stage::Step(step))).collect();
        let runs = self.times.total_ms.len();
        let (mut act, mut total) = (one(Stage::Prepare).0, Cost::default());
        steps.iter().for_each(|(cost, _)| act += *cost);
        for cost in [one(Stage::Siglip).0, one(Stage::Prefix).0, act] {
            total += cost;
        }
        let mean_step = |run: usize| {
            steps.iter().filter_map(|(_, ms)| ms.get(run)).sum::<f64>() / self.steps.max(1) as f64
        };
        // The first step computes the state's rows as well; a later one is the usual.
        let (usual_step, _) = steps.last().cloned().unwrap_or_default();
        let line = |name: &str, (cost, ms): (Cost, Vec<f64>)| Line { name: name.into(), cost, ms };
        vec![
            line("siglip", one(Stage::Siglip)),
            line("prefix", one(Stage::Prefix)),
            line("step", (usual_step, (0..runs).map(mean_step).collect())),
            line("act", (act, self.times.act_ms.clone())),
            line("total", (total, self.times.total_ms.clone())),
            line("cycle", (total, self.times.cycle_ms.clone())),
        ]
    }

    /// Bytes that a stage must read: weights, and keys and values of the prefix.
    fn bytes(&self, cost: &Cost) -> f64 {
        let per_element = if self.precision == Precision::Bf16 { 2.0 } else { 4.0 };
        per_element * (cost.weight_elements + cost.past_elements) as f64
    }

    /// Writes the table, and the `nodes` kinds of operations that took longest, to standard output.
    pub fn print(&self, nodes: usize) {
        println!(
            "{}, {} camera{}, {} prompt tokens in {}, {} steps",
            self.model,
            self.cameras,
            if self.cameras == 1 { "" } else { "s" },
            self.prompt_tokens,
            self.padded_prompt,
            self.steps
        );
        println!("{}, loaded and compiled in {:.1} s", self.device, self.compile_s);
        if let Some(Peak { flops, bytes }) = self.peak {
            println!("this machine at most: {:.0} GFLOP/s, {:.1} GB/s", flops / 1e9, bytes / 1e9);
        }
        println!(
            "\n{:<10}{:>12}{:>12}{:>11}{:>10}{:>8}{:>9}{:>8}",
            "stage", "median ms", "best ms", "GFLOP", "GFLOP/s", "%", "GB/s", "%"
        );
        for line in self.lines() {
            let (median, best) = (line.median_ms(), line.best_ms());
            let (flops, bytes) = (line.cost.flops as f64, self.bytes(&line.cost));
            let percent = |of: Option<f64>, per_second: f64| match of {
                Some(most) => format!("{:.0}", 100.0 * per_second / most),
                None => "-".into(),
            };
            let per_second = |amount: f64| amount / (median / 1e3);
            println!(
                "{:<10}{median:>12.2}{best:>12.2}{:>11.2}{:>10.0}{:>8}{:>9.1}{:>8}",
                line.name,
                flops / 1e9,
                per_second(flops) / 1e9,
                percent(self.peak.map(|peak| peak.flops), per_second(flops)),
                per_second(bytes) / 1e9,
                percent(self.peak.map(|peak| peak.bytes), per_second(bytes)),
            );
        }
        for ([m, k, n], flops) in &self.matmuls {
            println!("product {m} x {k} x {n}: {:.0} GFLOP/s", flops / 1e9);
        }
        if let Some(bytes) = self.peak_rss_bytes {
            println!("peak memory (RSS): {:.2} GB", bytes as f64 / 1e9);
        }
        self.print_nodes(nodes);
    }

    fn print_nodes(&self, count: usize) {
        if count == 0 {
            return;
        }
        let mut nodes: Vec<_> = self.times.nodes.iter().collect();
        nodes.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
        println!("\n{:>10}{:>8}{:>12}  operation (kernel)", "ms", "times", "us each");
        for (name, (ms, times)) in nodes.into_iter().take(count) {
            println!("{ms:>10.2}{times:>8}{:>12.1}  {name}", ms * 1e3 / (*times).max(1) as f64);
        }
    }

    /// The median of each denoising step.
    fn step_medians(&self) -> Vec<f64> {
        let step = |step| self.times.stages.get(&Stage::Step(step)).cloned().unwrap_or_default();
        let line = |(cost, ms)| Line { name: String::new(), cost, ms };
        (0..self.steps).map(|index| line(step(index)).median_ms()).collect()
    }

    pub fn to_json(&self) -> Value {
        let stages: Vec<Value> = self
            .lines()
            .iter()
            .map(|line| {
                json!({
                    "name": line.name,
                    "median_ms": line.median_ms(),
                    "best_ms": line.best_ms(),
                    "p99_ms": line.p99_ms(),
                    "gflop": line.cost.flops as f64 / 1e9,
                    "read_bytes": self.bytes(&line.cost),
                })
            })
            .collect();
        let matmul =
            |([m, k, n], flops): &([usize; 3], f64)| json!({"m": m, "k": k, "n": n, "gflops": flops / 1e9});
        json!({
            "preset": self.model,
            "cameras": self.cameras,
            "dtype": self.precision.to_string(),
            "threads": self.threads,
            "device": self.device,
            "steps": self.steps,
            "prompt_tokens": self.prompt_tokens,
            "padded_prompt": self.padded_prompt,
            "runs": self.times.total_ms.len(),
            "compile_s": self.compile_s,
            "stages": stages,
            "step_median_ms": self.step_medians(),
            "matmul": self.matmuls.iter().map(matmul).collect::<Vec<_>>(),
            "peak_gflops": self.peak.map(|peak| peak.flops / 1e9),
            "peak_bytes_per_second": self.peak.map(|peak| peak.bytes),
            "peak_rss_bytes": self.peak_rss_bytes,
        })
    }
}
