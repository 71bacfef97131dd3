//! The audit's report: a line per component, and what crosses between host and device. As text, JSON and Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use crate::device::Account;
use crate::graph::Cost;
use crate::policy::{Component, PolicyGraphs};

/// A model compiled for a device.
pub struct Audited {
    pub device: String,
    pub graphs: PolicyGraphs,
    /// Of perceive and of act.
    pub accounts: [Account; 2],
}

/// What is reported.
pub struct Report {
    device: String,
    place: String,
    source: &'static str,
    lines: BTreeMap<Component, Line>,
    steps: usize,
    /// Programs of each denoising step.
    programs_per_step: Vec<usize>,
    /// Transfers within each denoising step.
    crossings_per_step: Vec<usize>,
    /// Transfers within the programs, outside the steps.
    other_crossings: usize,
    written: Vec<(String, usize)>,
    read: Vec<(String, usize)>,
}

/// One component.
#[derive(Default)]
struct Line {
    /// Operations of the graph, computed anew in every run.
    operations: usize,
    /// Those that no step names: they are part of another's step, or only another view of the same numbers.
    within_others: usize,
    implementations: BTreeSet<&'static str>,
    programs: usize,
    crossings: usize,
    cost: Cost,
    weight_bytes: f64,
}

impl Line {
    /// Share of the operations that run on the device, percent: all that made no transfer to be computed elsewhere.
    fn coverage(&self) -> f64 {
        match self.operations {
            0 => 100.0,
            count => 100.0 * count.saturating_sub(self.crossings) as f64 / count as f64,
        }
    }
}

impl Report {
    pub fn of(audited: &Audited, steps: usize) -> Self {
        let Audited { device, graphs, accounts } = audited;
        let mut report = Self {
            device: device.clone(),
            place: accounts[0].place.clone(),
            source: accounts[0].source,
            lines: Component::ALL.into_iter().map(|component| (component, Line::default())).collect(),
            steps,
            programs_per_step: vec![0; steps],
            crossings_per_step: vec![0; steps],
            other_crossings: 0,
            written: Vec::new(),
            read: Vec::new(),
        };
        for (graph, account) in [&graphs.perceive, &graphs.act].into_iter().zip(accounts) {
            let named: BTreeSet<&str> = account.steps.iter().map(|step| step.node.as_str()).collect();
            // Else each step says what it reads.
            let all_alike = account.steps.iter().all(|step| step.weight_bytes.is_none());
            let constant = graph.constants();
            for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
                let line = report.lines.entry(Component::of(&graph.name, &node.name)).or_default();
                let cost = graph.cost(node);
                line.operations += 1;
                line.within_others += usize::from(!named.contains(node.name.as_str()));
                line.cost += cost;
                if all_alike {
                    line.weight_bytes += cost.weight_elements as f64 * account.weight_element_bytes;
                }
            }
            for step in &account.steps {
                let line = report.lines.entry(Component::of(&graph.name, &step.node)).or_default();
                line.implementations.insert(step.kernel);
                line.programs += step.programs;
                line.weight_bytes += step.weight_bytes.unwrap_or(0) as f64;
                line.crossings += step.crossings;
                match Component::step(&step.node).filter(|_| graph.name == "act") {
                    Some(number) if number < steps => {
                        report.programs_per_step[number] += step.programs;
                        report.crossings_per_step[number] += step.crossings;
                    }
                    _ => report.other_crossings += step.crossings,
                }
            }
            report.written.extend(account.written.iter().cloned());
            report.read.extend(account.read.iter().cloned());
        }
        report
    }

    /// Everything runs on the device.
    pub fn is_whole(&self) -> bool {
        self.lines.values().all(|line| line.crossings == 0)
    }

    fn totals(&self) -> Line {
        let mut total = Line::default();
        for line in self.lines.values() {
            total.operations += line.operations;
            total.within_others += line.within_others;
            total.programs += line.programs;
            total.crossings += line.crossings;
            total.cost += line.cost;
            total.weight_bytes += line.weight_bytes;
        }
        total
    }

    fn transfers(&self) -> [String; 4] {
        let bytes = |list: &[(String, usize)]| list.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let most_crossings = self.crossings_per_step.iter().max().copied().unwrap_or(0);
        // The first step also makes what all share, and the last one the actions as they are read.
        let per_step = || self.programs_per_step.iter().copied();
        let (fewest, most) = (per_step().min().unwrap_or(0), per_step().max().unwrap_or(0));
        let programs =
            if fewest == most { format!("{most} programs") } else { format!("{fewest} to {most} programs") };
        let written: Vec<&str> = self.written.iter().map(|(name, _)| name.as_str()).collect();
        let read: Vec<&str> = self.read.iter().map(|(name, _)| name.as_str()).collect();
        [
            format!(
                "host to device: {} writes per inference, {} bytes ({})",
                self.written.len(),
                bytes(&self.written),
                written.join(", ")
            ),
            format!(
                "device to host: {} reads per inference, {} bytes ({})",
                self.read.len(),
                bytes(&self.read),
                read.join(", ")
            ),
            format!("within the programs: {} transfers outside the denoising steps", self.other_crossings),
            format!("per denoising step ({} steps): {most_crossings} transfers, {programs}", self.steps),
        ]
    }

    pub fn to_json(&self) -> Value {
        let line = |name: String, line: &Line| {
            json!({
                "component": name,
                "operations": line.operations,
                "within_others": line.within_others,
                "implementations": line.implementations,
                "runs_on": self.place,
                "programs": line.programs,
                "flops": line.cost.flops,
                "weight_bytes": line.weight_bytes,
                "transfers": line.crossings,
                "coverage_percent": line.coverage(),
            })
        };
        let components: Vec<Value> =
            self.lines.iter().map(|(component, found)| line(component.to_string(), found)).collect();
        let bytes = |list: &[(String, usize)]| -> Value {
            list.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect()
        };
        json!({
            "device": self.device,
            "source": self.source,
            "components": components,
            "total": line("total".into(), &self.totals()),
            "denoising_steps": self.steps,
            "programs_per_step": self.programs_per_step,
            "transfers_per_step": self.crossings_per_step,
            "transfers_within_programs": self.other_crossings,
            "written_per_inference": bytes(&self.written),
            "read_per_inference": bytes(&self.read),
        })
    }

    pub fn to_markdown(&self) -> String {
        let mut text = format!("# Audit of {}\n\nFrom {}.\n\n", self.device, self.source);
        text += "| component | operations | runs on | programs | GFLOP | weights read, MB | transfers | coverage | implementations |\n";
        text += "|---|---|---|---|---|---|---|---|---|\n";
        let total = self.totals();
        let lines = self.lines.iter().map(|(component, line)| (component.to_string(), line));
        for (name, line) in lines.chain([("total".to_owned(), &total)]) {
            let implementations: Vec<&str> = line.implementations.iter().copied().collect();
            text += &format!(
                "| {name} | {} | {} | {} | {:.2} | {:.1} | {} | {:.0} % | {} |\n",
                line.operations,
                self.place,
                line.programs,
                line.cost.flops as f64 / 1e9,
                line.weight_bytes / 1e6,
                line.crossings,
                line.coverage(),
                implementations.join(", ")
            );
        }
        text += "\n";
        self.transfers().iter().for_each(|sentence| text += &format!("- {sentence}\n"));
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device: {}\nfrom: {}\n", self.device, self.source)?;
        writeln!(
            f,
            "{:<23}{:>11}{:>10}{:>10}{:>10}{:>11}{:>10}  implementations on {}",
            "component", "operations", "programs", "GFLOP", "MB read", "transfers", "coverage", self.place
        )?;
        let total = self.totals();
        let lines = self.lines.iter().map(|(component, line)| (component.to_string(), line));
        for (name, line) in lines.chain([("total".to_owned(), &total)]) {
            // Without what every name of the library begins with.
            let short = |name: &&'static str| {
                name.trim_start_matches("ttnn.").rsplit('.').next().unwrap_or_default().to_owned()
            };
            let implementations: Vec<String> = match line.implementations.is_empty() && name != "total" {
                true => vec!["(within the next component's)".into()],
                false => line.implementations.iter().map(short).collect(),
            };
            writeln!(
                f,
                "{name:<23}{:>11}{:>10}{:>10.2}{:>10.1}{:>11}{:>8.0} %  {}",
                line.operations,
                line.programs,
                line.cost.flops as f64 / 1e9,
                line.weight_bytes / 1e6,
                line.crossings,
                line.coverage(),
                implementations.join(" ")
            )?;
        }
        writeln!(f)?;
        self.transfers().iter().try_for_each(|sentence| writeln!(f, "{sentence}"))
    }
}
