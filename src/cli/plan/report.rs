//! What `plan` prints.

use super::{Plan, Stage, Sums};
use crate::device::tenstorrent::planner::Fit;
use crate::device::tenstorrent::planner::work::Part;
use crate::device::tenstorrent::{Card, WeightTypes};
use crate::policy::PolicyConfig;

/// What the predictions rest on, in few words.
pub(super) fn print_heading(fit: &Fit) {
    let runs = || fit.checks.iter().filter(|check| check.whole).map(|check| check.measured_us / 1e3);
    let [fitted, left_out] = fit.errors_of_runs();
    println!(
        "Predictions, not measurements: {} constants fitted to {} published measurements on a P150. Of these, {} whole runs of\n\
         tt-metal's pi0.5 ({:.0} to {:.0} ms) are reproduced within {:.1} %, each by the others' constants within {:.1} %. Other \
         programs are\ngiven +-{:.0} %. The bound is the vendor's peaks. --fit shows all of it.\n",
        Part::ALL.len(),
        fit.checks.len(),
        runs().count(),
        runs().fold(f64::INFINITY, f64::min),
        runs().fold(0.0, f64::max),
        100.0 * fitted,
        100.0 * left_out,
        100.0 * fit.margin(),
    );
    println!(
        "{:<6}{:>8}{:>8}{:>7}  {:<12}{:>9}{:>9}{:>10}{:>10}{:>15}",
        "card",
        "cores",
        "cameras",
        "steps",
        "stage",
        "programs",
        "GFLOP",
        "DRAM, MB",
        "bound, ms",
        "predicted, ms"
    );
}

/// Every measurement beside what the constants make of it.
pub(super) fn print_fit(fit: &Fit) {
    for part in Part::ALL {
        println!("{:<24}{:>8.3} {}", part.name(), fit.constants[part as usize], part.unit());
    }
    println!(
        "\n{:<54}{:>12}{:>11}{:>8}{:>10}",
        "measurement", "measured, us", "fitted, us", "error", "left out"
    );
    let mut source = "";
    for check in &fit.checks {
        if check.source != source {
            source = &check.source;
            println!("{source}:");
        }
        println!(
            "  {:<52}{:>12.1}{:>11.1}{:>7.1}%{:>9.1}%",
            check.name,
            check.measured_us,
            check.fitted_us,
            100.0 * check.error(),
            100.0 * check.left_out_error()
        );
    }
    println!();
}

impl Plan {
    pub(super) fn print(&self) {
        let Card { name, grid: [x, y], .. } = self.card;
        let (cores, cameras, steps) = (format!("{x}x{y}"), self.cameras, self.steps);
        for stage in Stage::ALL {
            let Sums { cost, programs, bound_ms, .. } = self.stages[stage as usize];
            println!(
                "{name:<6}{cores:>8}{cameras:>8}{steps:>7}  {:<12}{programs:>9}{:>9.0}{:>10.0}{bound_ms:>10.2}{:>15.1}",
                stage.name(),
                cost.flops / 1e9,
                cost.dram_bytes / 1e6,
                self.predicted_ms[stage as usize],
            );
        }
        let [low, high] = self.range();
        let programs: usize = self.stages.iter().map(|sums| sums.programs).sum();
        println!(
            "{name:<6}{cores:>8}{cameras:>8}{steps:>7}  {:<12}{programs:>9}{:>29.2}{:>15.1}   {low:.0} to {high:.0} ms: {}",
            "total",
            self.bound_ms(),
            self.predicted(),
            self.verdict()
        );
        let parts =
            Part::ALL.map(|part| format!("{} {:.1}", part.name(), self.parts_us[part as usize] / 1e3));
        println!("  made of, ms: {}", parts.join(", "));
    }

    /// Every kind of operation, the longest first.
    pub(super) fn print_operations(&self) {
        println!("  {:<10}{:>7}{:>10}{:>9}  operation and what it reads", "stage", "calls", "us each", "ms");
        let mut all: Vec<_> = self.operations().into_iter().collect();
        all.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        for ((stage, operation, shapes), (calls, us)) in all {
            let (each, ms) = (us / calls as f64, us / 1e3);
            println!("  {stage:<10}{calls:>7}{each:>10.1}{ms:>9.2}  {operation} {shapes}");
        }
        println!();
    }

    /// The prediction for what is a little different.
    pub(super) fn print_changes(
        &self,
        config: &PolicyConfig,
        weights: WeightTypes,
        fit: &Fit,
    ) -> anyhow::Result<()> {
        let like = |config: &PolicyConfig, cameras, weights| {
            Plan::of(config, self.card, cameras, weights, fit, self.budget_ms).map(|plan| plan.predicted())
        };
        let more_steps = PolicyConfig { denoising_steps: self.steps + 1, ..*config };
        let now = self.predicted();
        let mut changes = vec![
            format!("a step more {:+.2}", like(&more_steps, self.cameras, weights)? - now),
            format!("a camera more {:+.1}", like(config, self.cameras + 1, weights)? - now),
        ];
        for other in WeightTypes::ALL.into_iter().filter(|&other| other != weights) {
            changes.push(format!(
                "weights {} {:+.1}",
                other.name(),
                like(config, self.cameras, other)? - now
            ));
        }
        let program_us: f64 =
            [Part::Gaps, Part::Programs].map(|part| fit.constants[part as usize]).iter().sum();
        changes.push(format!("100 programs fewer {:+.2}", -100.0 * program_us / 1e3));
        println!("  would change it, ms: {}\n", changes.join(", "));
        Ok(())
    }
}
