//! What a card's profiler measured beside the plan, call by call: `plan --measured`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::{Value, json};

use super::{Kind, Plan, Stage};
use crate::device::tenstorrent::planner::measured::{Row, Run, Runs, read, runs};

/// Share of the table's rows that may be none of the plan's, and of its products that may read something else.
const MOST_OTHERS: f64 = 0.2;
/// Kinds of calls that are shown: those that are furthest from the prediction.
const SHOWN: usize = 20;

/// A profiler's table beside a plan.
pub(super) struct Measured {
    path: PathBuf,
    rows: usize,
    /// How often each program ran.
    times: Vec<(String, usize)>,
    kinds: Vec<Line>,
    /// Between two programs, microseconds: of all calls together, where the table says it.
    gaps_us: Option<f64>,
    /// What the plan takes for that.
    predicted_gaps_us: f64,
    /// Programs that are in no run, or that only the table has: rows and microseconds by name.
    others: BTreeMap<String, (usize, f64)>,
    /// Calls that only the plan has, by operation.
    missing: BTreeMap<&'static str, usize>,
}

/// All calls of one kind; microseconds are those of kernels, gaps left out.
struct Line {
    kind: Kind,
    calls: usize,
    cores: Option<usize>,
    measured_us: f64,
    predicted_us: f64,
}

impl Line {
    fn apart_us(&self) -> f64 {
        self.measured_us - self.predicted_us
    }
}

impl Measured {
    /// Reads the table and finds the plan's programs in it.
    pub fn of(plan: &Plan, path: &Path) -> anyhow::Result<Self> {
        let rows = read(path)?;
        let mut measured = Self {
            path: path.into(),
            rows: rows.len(),
            times: Vec::new(),
            kinds: Vec::new(),
            gaps_us: rows.iter().any(|row| row.gap_us.is_some()).then_some(0.0),
            predicted_gaps_us: 0.0,
            others: BTreeMap::new(),
            missing: BTreeMap::new(),
        };
        let mut kinds: BTreeMap<&Kind, Line> = BTreeMap::new();
        let mut known = vec![false; rows.len()];
        for (name, program) in &plan.programs {
            let expected: Vec<_> = program.iter().map(|planned| planned.expected.clone()).collect();
            let found = runs(&expected, &rows);
            if found.runs.is_empty() {
                bail!(no_run(path, name, plan, &found, &rows));
            }
            if let Some((call, row)) = reads_something_else(program, &found.runs, &rows) {
                bail!(
                    "{}, line {}: {} reads {:?} rows and columns, and in the plan's '{name}' {:?}: it is a run of another model \
                     or with another number of cameras or prompt tokens (--preset or --checkpoint, --cameras)",
                    path.display(),
                    rows[row].line,
                    rows[row].code,
                    rows[row].input.unwrap_or_default(),
                    program[call].expected.input.unwrap_or_default(),
                );
            }
            found.runs.iter().flatten().flatten().for_each(|&row| known[row] = true);
            measured.times.push((name.clone(), found.runs.len()));
            for (call, planned) in program.iter().enumerate() {
                let of_call: Vec<&Row> =
                    found.runs.iter().filter_map(|run| Some(&rows[run[call]?])).collect();
                let Some(us) = median(of_call.iter().map(|row| row.kernel_us)) else {
                    *measured.missing.entry(planned.expected.operation).or_default() += 1;
                    continue;
                };
                let line = kinds.entry(&planned.kind).or_insert_with(|| Line {
                    kind: planned.kind.clone(),
                    calls: 0,
                    cores: of_call.iter().find_map(|row| row.cores),
                    measured_us: 0.0,
                    predicted_us: 0.0,
                });
                line.calls += 1;
                line.measured_us += us;
                line.predicted_us += planned.us - plan.gap_us;
                measured.predicted_gaps_us += plan.gap_us;
                if let (Some(sum), Some(gap)) =
                    (&mut measured.gaps_us, median(of_call.iter().filter_map(|row| row.gap_us)))
                {
                    *sum += gap;
                }
            }
        }
        for row in rows.iter().zip(&known).filter(|(_, known)| !**known).map(|(row, _)| row) {
            let entry = measured.others.entry(row.code.clone()).or_default();
            *entry = (entry.0 + 1, entry.1 + row.kernel_us);
        }
        let others: usize = measured.others.values().map(|(rows, _)| rows).sum();
        if others as f64 > MOST_OTHERS * rows.len() as f64 {
            bail!(
                "{}: {others} of {} programs belong to no run of the plan's ({}): another number of steps (--steps), or more \
                 than this model ran",
                path.display(),
                rows.len(),
                measured.names()
            );
        }
        measured.kinds = kinds.into_values().collect();
        measured.kinds.sort_by(|a, b| b.apart_us().abs().total_cmp(&a.apart_us().abs()));
        Ok(measured)
    }

    /// What is in no run, the most first.
    fn names(&self) -> String {
        let mut all: Vec<_> = self.others.iter().collect();
        all.sort_by_key(|(_, (rows, _))| std::cmp::Reverse(*rows));
        let name = |(name, (rows, us)): &(&String, &(usize, f64))| {
            format!("{name} {rows} times, {:.2} ms", us / 1e3)
        };
        all.iter().map(name).collect::<Vec<_>>().join("; ")
    }

    /// Sums over what `belongs`: calls, measured and predicted milliseconds.
    fn sums(&self, belongs: impl Fn(&Kind) -> bool) -> (usize, f64, f64) {
        let lines = self.kinds.iter().filter(|line| belongs(&line.kind));
        lines.fold((0, 0.0, 0.0), |(calls, measured, predicted), line| {
            (calls + line.calls, measured + line.measured_us / 1e3, predicted + line.predicted_us / 1e3)
        })
    }

    fn operations(&self) -> Vec<&'static str> {
        let mut found: Vec<&'static str> = self.kinds.iter().map(|line| line.kind.1).collect();
        found.sort_unstable();
        found.dedup();
        let measured = |operation: &&'static str| self.sums(|kind| kind.1 == *operation).1;
        found.sort_by(|a, b| measured(b).total_cmp(&measured(a)));
        found
    }

    pub fn print(&self) {
        let times = self.times.iter().map(|(name, times)| format!("{name} {times} times"));
        println!(
            "Measured: {}, {} programs on the card, {}. Kernels alone; of several runs the median.\n",
            self.path.display(),
            self.rows,
            times.collect::<Vec<_>>().join(", ")
        );
        println!("  {:<62}{:>6}{:>14}{:>15}{:>7}", "", "calls", "measured, ms", "predicted, ms", "ratio");
        let line = |name: &str, (calls, measured, predicted): (usize, f64, f64)| {
            println!("  {name:<62}{calls:>6}{measured:>14.2}{predicted:>15.2}{:>7.2}", measured / predicted);
        };
        for stage in Stage::ALL {
            line(stage.name(), self.sums(|kind| kind.0 == stage.name()));
        }
        println!();
        for operation in self.operations() {
            line(operation, self.sums(|kind| kind.1 == operation));
        }
        println!();
        line("all kernels", self.sums(|_| true));
        let gaps = self.gaps_us.map_or_else(|| "not in the table".into(), |us| format!("{:.2}", us / 1e3));
        println!("  {:<68}{gaps:>14}{:>15.2}", "between them", self.predicted_gaps_us / 1e3);

        println!("\n  furthest from the prediction:");
        println!(
            "  {:<10}{:>6}{:>7}{:>15}{:>16}{:>11}  operation and what it reads",
            "stage", "calls", "cores", "measured, us", "predicted, us", "apart, ms"
        );
        for Line { kind: (stage, operation, shapes), calls, cores, measured_us, predicted_us } in
            self.kinds.iter().take(SHOWN)
        {
            let cores = cores.map_or_else(|| "-".into(), |cores| cores.to_string());
            let each = |us: &f64| us / *calls as f64;
            println!(
                "  {stage:<10}{calls:>6}{cores:>7}{:>15.1}{:>16.1}{:>+11.2}  {operation} {shapes}",
                each(measured_us),
                each(predicted_us),
                (measured_us - predicted_us) / 1e3,
            );
        }
        if !self.others.is_empty() {
            println!("\n  not in the plan: {}", self.names());
        }
        if !self.missing.is_empty() {
            let missing = self.missing.iter().map(|(operation, calls)| format!("{operation} {calls} times"));
            println!("\n  not measured: {}", missing.collect::<Vec<_>>().join("; "));
        }
    }

    pub fn to_json(&self) -> Value {
        let kind = |line: &Line| {
            let (stage, operation, shapes) = &line.kind;
            json!({
                "stage": stage,
                "operation": operation,
                "reads": shapes,
                "calls": line.calls,
                "cores": line.cores,
                "measured_us": line.measured_us,
                "predicted_us": line.predicted_us,
            })
        };
        let (_, measured_ms, predicted_ms) = self.sums(|_| true);
        json!({
            "file": self.path.display().to_string(),
            "programs": self.rows,
            "runs": self.times.iter().map(|(name, times)| (name.clone(), json!(times))).collect::<serde_json::Map<_, _>>(),
            "kernels_ms": measured_ms,
            "predicted_kernels_ms": predicted_ms,
            "gaps_ms": self.gaps_us.map(|us| us / 1e3),
            "predicted_gaps_ms": self.predicted_gaps_us / 1e3,
            "kinds": self.kinds.iter().map(kind).collect::<Value>(),
            "not_in_the_plan": self.others.iter().map(|(name, (rows, us))| (name.clone(), json!({ "rows": rows, "us": us }))).collect::<serde_json::Map<_, _>>(),
            "not_measured": self.missing,
        })
    }
}

/// The first product that reads something else than planned, if these are not just a few.
fn reads_something_else(program: &[super::Planned], runs: &[Run], rows: &[Row]) -> Option<(usize, usize)> {
    let compared = runs.iter().flat_map(|run| {
        run.iter().enumerate().filter_map(|(call, row)| {
            let row = (*row)?;
            let (planned, measured) = (program[call].expected.input?, rows[row].input?);
            Some((call, row, planned != measured))
        })
    });
    let (mut all, mut different) = (0_usize, Vec::new());
    for (call, row, differs) in compared {
        all += 1;
        if differs {
            different.push((call, row));
        }
    }
    different.first().copied().filter(|_| different.len() as f64 > MOST_OTHERS * all as f64)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(all[middle]),
        _ => Some((all[middle - 1] + all[middle]) / 2.0),
    }
}

/// Why there is no run of a program in the table.
fn no_run(path: &Path, name: &str, plan: &Plan, found: &Runs, rows: &[Row]) -> String {
    let program =
        plan.programs.iter().find(|(known, _)| known == name).map_or(&[][..], |(_, program)| program);
    let nearest = &found.nearest;
    let mut text = format!(
        "{} has no run of the plan's '{name}', {} programs, among its {}: ",
        path.display(),
        program.len(),
        rows.len()
    );
    match nearest.missing.and_then(|call| Some((&program.get(call)?.kind, rows.get(nearest.start)?))) {
        Some(((_, operation, shapes), row)) if nearest.matched > 0 => {
            text += &format!(
                "the nearest begins in line {} and has {} of them; the first that it lacks is {operation} {shapes}",
                row.line, nearest.matched
            );
        }
        _ => text += "none begins as this program does",
    }
    text + ". Was it the same model (--preset or --checkpoint), with as many cameras (--cameras) and steps (--steps)?"
}
