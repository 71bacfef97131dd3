//! What is in a checkpoint: tensors, parameters and element types by component. Called by `cli checkpoint inspect`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Checkpoint, PolicyConfig};
use crate::policy::Continuation;
use crate::policy::keys::{EMBEDDING, EXPERT, PROJECTOR, VISION, VLM};

/// Tensor and parameter counts of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentSummary {
    pub tensors: usize,
    pub parameters: usize,
    pub dtypes: BTreeSet<String>,
}

/// Counts of a whole checkpoint, components in the order of the data flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub config: PolicyConfig,
    pub components: Vec<(&'static str, ComponentSummary)>,
}

const COMPONENTS: [&str; 6] = [
    "SigLIP vision tower",
    "image projector",
    "language embedding",
    "Gemma language model",
    "Gemma action expert",
    "state, action and time projections",
];

fn component(key: &str) -> &'static str {
    let index = match key {
        EMBEDDING => 2,
        key if key.starts_with(VISION) => 0,
        key if key.starts_with(PROJECTOR) => 1,
        key if key.starts_with(VLM) => 3,
        key if key.starts_with(EXPERT) => 4,
        _ => 5,
    };
    COMPONENTS[index]
}

impl Checkpoint {
    pub fn summary(&self) -> Summary {
        let mut counts: BTreeMap<&str, ComponentSummary> = BTreeMap::new();
        for (key, stored) in &self.tensors {
            let count = counts.entry(component(key)).or_default();
            count.tensors += 1;
            count.parameters += stored.shape.iter().product::<usize>();
            count.dtypes.insert(stored.dtype.to_string());
        }
        let components =
            COMPONENTS.into_iter().map(|name| (name, counts.remove(name).unwrap_or_default())).collect();
        Summary { config: self.config, components }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        let name = c.variant.name;
        writeln!(f, "{name}: horizon {}, actions {}, state {}", c.action_horizon, c.action_dim, c.state_dim)?;
        let indent = name.len() + 2;
        writeln!(
            f,
            "{:indent$}{} denoising steps, prompt of {} tokens",
            "", c.denoising_steps, c.prompt_tokens
        )?;
        writeln!(f, "{:indent$}the state is {}", "", c.variant.state)?;
        if let Continuation::Given { most } = c.continuation {
            writeln!(f, "{:indent$}up to {most} points of a chunk may be given (real-time chunking)", "")?;
        }
        let v = &c.vision;
        writeln!(
            f,
            "vision: {} layers, width {}, {} heads, mlp {}, image {}x{}, patch {}",
            v.layers, v.width, v.heads, v.mlp, v.image, v.image, v.patch
        )?;
        for (name, g) in [("language model", &c.vlm), ("action expert", &c.expert)] {
            writeln!(
                f,
                "{name}: {} layers, width {}, {} heads ({} kv) of {}, mlp {}",
                g.layers, g.width, g.heads, g.kv_heads, g.head_dim, g.mlp
            )?;
        }
        writeln!(f, "vocabulary: {}\n", c.vocabulary)?;
        writeln!(f, "{:<36}{:>8}{:>16}  stored as", "component", "tensors", "parameters")?;
        let mut total = ComponentSummary::default();
        for (name, count) in &self.components {
            row(f, name, count)?;
            total.tensors += count.tensors;
            total.parameters += count.parameters;
            total.dtypes.extend(count.dtypes.iter().cloned());
        }
        row(f, "total", &total)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, count: &ComponentSummary) -> fmt::Result {
    let dtypes: Vec<&str> = count.dtypes.iter().map(String::as_str).collect();
    writeln!(f, "{name:<36}{:>8}{:>16}  {}", count.tensors, grouped(count.parameters), dtypes.join(", "))
}

/// `3238000000` as `3 238 000 000`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1234), "1 234");
        assert_eq!(grouped(3_238_000_000), "3 238 000 000");
    }

    #[test]
    fn full_size_pi0_has_the_published_number_of_parameters() {
        let specs = crate::policy::weight_specs(&PolicyConfig::PI0).unwrap();
        let parameters: usize = specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        // A file of 778 tensors holds the embedding twice and the expert's unused output head.
        assert_eq!(specs.len(), 776);
        assert_eq!(parameters / 1_000_000, 3238);
    }

    #[test]
    fn full_size_pi05_has_a_dense_layer_for_each_norm_of_the_expert() {
        let parameters = |config| -> usize {
            let specs = crate::policy::weight_specs(config).unwrap();
            specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
        };
        // 37 norms with three outputs and a bias for each of 1024 elements in place of one weight; the time has 1024 inputs
        // instead of 2048, and there is no projection of the state.
        let more = 37 * (3072 * 1024 + 3072 - 1024) - 1024 * 1024 - (32 * 1024 + 1024);
        assert_eq!(parameters(&PolicyConfig::PI05), parameters(&PolicyConfig::PI0) + more);
    }
}
