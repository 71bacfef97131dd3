//! Values inside the model that can be asked for by name: the names and shapes of the golden data.
//! Used by `cli infer --values`, and by the tests that compare every component with the reference.

use std::collections::BTreeSet;

use super::config::PolicyConfig;
use crate::graph::{GraphBuilder, ValueId};

/// Which intermediate values become outputs of the graphs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Intermediates {
    #[default]
    None,
    All,
    Named(BTreeSet<String>),
}

impl Intermediates {
    /// `all`, or names separated by commas.
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "" => Self::None,
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    /// Whether `name` was asked for.
    pub fn wants(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    /// Makes `value` an output if `name` was asked for.
    pub(super) fn offer(&self, b: &mut GraphBuilder, name: &str, value: ValueId) {
        if self.wants(name) {
            b.output(name, value);
        }
    }
}

/// An intermediate value as the golden files hold it: with a batch axis of 1, heads before tokens in the KV cache.
///
/// `shape` and `data` are as read from the device: matrices `[tokens, width]`, row-major.
pub fn in_golden_layout(
    config: &PolicyConfig,
    name: &str,
    shape: &[usize],
    data: Vec<f32>,
) -> (Vec<usize>, Vec<f32>) {
    if name.starts_with("cache_") {
        let (heads, head_dim) = (config.vlm.kv_heads, config.vlm.head_dim);
        let rows = data.len() / (heads * head_dim);
        let mut heads_first = Vec::with_capacity(data.len());
        for head in 0..heads {
            for row in data.chunks_exact(heads * head_dim) {
                heads_first.extend_from_slice(&row[head * head_dim..(head + 1) * head_dim]);
            }
        }
        return (vec![1, heads, rows, head_dim], heads_first);
    }
    // The time of a step is a list of one, and what the norms make of it a row: that one is the batch axis.
    let is_time = name.starts_with("time_") || name.starts_with("adarms_cond_");
    let batched = if is_time { shape.to_vec() } else { [&[1], shape].concat() };
    (batched, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_has_its_heads_first() {
        let mut config = PolicyConfig::TINY;
        (config.vlm.kv_heads, config.vlm.head_dim) = (2, 2);
        let rows = vec![0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0];
        let (shape, data) = in_golden_layout(&config, "cache_k_0", &[2, 4], rows);
        assert_eq!(shape, [1, 2, 2, 2]);
        assert_eq!(data, [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    }
}
