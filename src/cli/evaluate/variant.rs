//! What is tried: a latency, a join, a number of denoising steps, a dtype. Called by `evaluate`.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::ensure;

use crate::device::cpu::Dtype;
use crate::settings::{Settings, SettingsError, Value};

/// One way to run the loop; what is none is as the parameter file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub latency_ms: u64,
    pub join: Option<String>,
    pub steps: Option<u32>,
    pub dtype: Option<Dtype>,
}

/// What somebody wants tried; the first of each is the usual case.
pub struct Lists<'a> {
    pub latency_ms: &'a [u64],
    pub join: &'a [String],
    pub steps: &'a [u32],
    pub dtype: &'a [Dtype],
}

impl Lists<'_> {
    /// Every join at every latency, and every other number of steps and dtype by itself; the usual case first.
    pub fn variants(&self) -> Vec<Variant> {
        let usual = Variant {
            latency_ms: self.latency_ms.first().copied().unwrap_or(0),
            join: self.join.first().cloned(),
            steps: self.steps.first().copied(),
            dtype: self.dtype.first().copied(),
        };
        let joins: Vec<Option<String>> =
            if self.join.is_empty() { vec![None] } else { self.join.iter().cloned().map(Some).collect() };
        let mut variants = Vec::new();
        for &latency_ms in self.latency_ms {
            for join in &joins {
                variants.push(Variant { latency_ms, join: join.clone(), ..usual.clone() });
            }
        }
        for &steps in self.steps.iter().skip(1) {
            variants.push(Variant { steps: Some(steps), ..usual.clone() });
        }
        for &dtype in self.dtype.iter().skip(1) {
            variants.push(Variant { dtype: Some(dtype), ..usual.clone() });
        }
        let mut once: Vec<Variant> = Vec::new();
        for variant in variants {
            if !once.contains(&variant) {
                once.push(variant);
            }
        }
        once
    }
}

impl Variant {
    /// Whether an attempt of so many seconds can have a chunk at all.
    pub fn check(&self, settings: &Settings, seconds: u32) -> anyhow::Result<()> {
        let most = settings.max_image_age_ms.min(1e3 * f64::from(seconds));
        ensure!(
            (self.latency_ms as f64) < most,
            "{self}: no chunk would leave: an attempt has {seconds} s, and the parameter file lets images be {} ms old at most \
             (max_image_age_ms)",
            settings.max_image_age_ms
        );
        Ok(())
    }

    /// The parameter file's settings with what this one changes.
    pub fn settings(&self, values: &BTreeMap<String, Value>) -> Result<Settings, SettingsError> {
        let mut values = values.clone();
        let join = self.join.clone().map(Value::Text);
        let steps = self.steps.map(|steps| Value::Integers(vec![steps.into()]));
        let dtype = self.dtype.map(|dtype| Value::Text(dtype.to_string()));
        for (name, value) in [("chunk_join", join), ("denoise_steps", steps), ("dtype", dtype)] {
            if let Some(value) = value {
                values.insert(name.into(), value);
            }
        }
        Settings::from_values(&values)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.latency_ms)?;
        if let Some(join) = &self.join {
            write!(f, ", {join}")?;
        }
        if let Some(steps) = self.steps {
            write!(f, ", {steps} steps")?;
        }
        self.dtype.iter().try_for_each(|dtype| write!(f, ", {dtype}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_tried_at_every_latency_and_the_rest_by_itself() {
        let joins = ["replace", "guided"].map(str::to_owned);
        let lists = Lists { latency_ms: &[50, 0, 50], join: &joins, steps: &[10, 5, 10], dtype: &[] };
        let names: Vec<String> = lists.variants().iter().map(Variant::to_string).collect();
        let expected = [
            "50 ms, replace, 10 steps",
            "50 ms, guided, 10 steps",
            "0 ms, replace, 10 steps",
            "0 ms, guided, 10 steps",
            "50 ms, replace, 5 steps",
        ];
        assert_eq!(names, expected);
    }
}
