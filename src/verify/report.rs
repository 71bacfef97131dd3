//! What `verify` found: a line per component, a line per denoising step, and where it goes wrong. As text and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::bisect::FirstOff;
use super::difference::{Difference, Tolerance};
use super::landmarks::Landmark;
use crate::policy::Component;

/// One compared value.
#[derive(Clone, Debug)]
pub struct Line {
    pub landmark: Landmark,
    pub difference: Difference,
    pub passes: bool,
}

/// Everything that was compared.
#[derive(Clone, Debug)]
pub struct Report {
    pub device: String,
    pub reference: String,
    pub cameras: usize,
    pub steps: usize,
    pub tolerance: Tolerance,
    /// In the order in which the values are computed.
    pub lines: Vec<Line>,
    /// The actions of the programs as they run in a robot, with no other output; and whether they pass.
    pub as_it_runs: Option<(Difference, bool)>,
    /// Where it goes wrong, if it does and that can be told.
    pub first_off: Option<FirstOff>,
}

impl Report {
    pub fn passes(&self) -> bool {
        self.lines.iter().all(|line| line.passes) && self.as_it_runs.is_some_and(|(_, passes)| passes)
    }

    /// The worst of the values that `choose` takes, how many they are, and whether all pass.
    fn worst(&self, choose: impl Fn(&Landmark) -> bool) -> Option<(Difference, usize, bool)> {
        let lines = self.lines.iter().filter(|line| choose(&line.landmark));
        lines.fold(None, |worst, line| {
            let (difference, count, passes) = worst.unwrap_or((Difference::NONE, 0, true));
            Some((difference.worse(line.difference), count + 1, passes && line.passes))
        })
    }

    fn components(&self) -> impl Iterator<Item = (Component, (Difference, usize, bool))> {
        Component::ALL.into_iter().filter_map(|component| {
            Some((component, self.worst(|landmark| landmark.component == component)?))
        })
    }

    fn by_step(&self) -> impl Iterator<Item = (usize, (Difference, usize, bool))> {
        (0..self.steps).filter_map(|step| Some((step, self.worst(|landmark| landmark.step == Some(step))?)))
    }

    pub fn to_json(&self) -> Value {
        let entry = |(difference, values, passes): (Difference, usize, bool)| {
            let mut entry = difference.to_json();
            (entry["values"], entry["passes"]) = (json!(values), json!(passes));
            entry
        };
        let named = |key: &str, name: Value, what| {
            let mut entry = entry(what);
            entry[key] = name;
            entry
        };
        json!({
            "device": self.device,
            "reference": self.reference,
            "cameras": self.cameras,
            "passes": self.passes(),
            "tolerance": { "pcc": self.tolerance.correlation, "relative_rms": self.tolerance.relative_rms },
            "components": self.components()
                .map(|(component, what)| named("name", json!(component.to_string()), what)).collect::<Value>(),
            "denoising_steps": self.by_step()
                .map(|(step, what)| named("step", json!(step), what)).collect::<Value>(),
            "values": self.lines.iter().map(|line| {
                let mut entry = line.difference.to_json();
                entry["name"] = json!(line.landmark.name);
                entry["component"] = json!(line.landmark.component.to_string());
                entry["passes"] = json!(line.passes);
                entry
            }).collect::<Value>(),
            "actions_as_it_runs": self.as_it_runs.map(|(difference, passes)| entry((difference, 1, passes))),
            "first_off": self.first_off.as_ref().map(|first| {
                let mut entry = first.difference.to_json();
                entry["node"] = json!(first.node);
                entry["operation"] = json!(first.operation);
                entry["reads"] = first.operands.iter().map(|(name, difference)| {
                    let mut entry = difference.to_json();
                    entry["name"] = json!(name);
                    entry
                }).collect();
                entry
            }),
        })
    }

    fn verdict(&self) -> String {
        let Tolerance { correlation, relative_rms } = self.tolerance;
        if self.passes() {
            return format!("PASS: every value within PCC {correlation} and relative rms {relative_rms:.0e}");
        }
        let Some(wrong) = self.lines.iter().find(|line| !line.passes) else {
            return "FAIL: every value is right where it is asked for, and the actions of the programs as they run are not: \
                    the fault is in what is computed together when nothing else is read"
                .into();
        };
        let mut text = format!("FAIL: the first value that is off is {}", wrong.landmark.name);
        match &self.first_off {
            None => {
                text += "; asked for one by one, the values before it are right: the fault is in what is computed together";
            }
            Some(first) => {
                let Difference { correlation, relative_rms, largest } = first.difference;
                text += &format!(
                    "\nit goes wrong in node '{}' ({}): PCC {correlation:.6}, relative rms {relative_rms:.1e}, largest error {largest:.1e}",
                    first.node, first.operation
                );
                for (name, difference) in &first.operands {
                    let Difference { correlation, relative_rms, .. } = difference;
                    text += &format!(
                        "\n  which reads {name}: PCC {correlation:.6}, relative rms {relative_rms:.1e}"
                    );
                }
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device     {}\nreference  {}", self.device, self.reference)?;
        writeln!(f, "cameras    {}, denoising steps {}\n", self.cameras, self.steps)?;
        let header = ["component", "values", "worst PCC", "relative rms", "largest error"];
        let [name, values, correlation, rms, largest] = header;
        writeln!(f, "{name:<24}{values:>7}{correlation:>12}{rms:>14}{largest:>15}")?;
        let line = |f: &mut fmt::Formatter<'_>,
                    name: &str,
                    (difference, count, passes): (Difference, usize, bool)| {
            let Difference { correlation, relative_rms, largest } = difference;
            let verdict = if passes { "" } else { "   OFF" };
            writeln!(
                f,
                "{name:<24}{count:>7}{correlation:>12.7}{relative_rms:>14.1e}{largest:>15.1e}{verdict}"
            )
        };
        for (component, what) in self.components() {
            line(f, &component.to_string(), what)?;
        }
        writeln!(f)?;
        for (step, what) in self.by_step() {
            line(f, &format!("denoising step {step}"), what)?;
        }
        if let Some((difference, passes)) = self.as_it_runs {
            line(f, "actions, as it runs", (difference, 1, passes))?;
        }
        writeln!(f, "\n{}", self.verdict())
    }
}
