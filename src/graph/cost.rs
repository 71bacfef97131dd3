//! What a node costs: arithmetic, and what it has to read. Called by `cli bench`, which sets times beside it.

use super::{Attention, Graph, Node, Op};

/// The cost of one run of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Additions and multiplications; every other element-wise operation counts as one per element.
    pub flops: u64,
    /// Elements of weight matrices that are read, each once.
    pub weight_elements: u64,
    /// Elements of a past's keys and values that are read, each once.
    pub past_elements: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.weight_elements += other.weight_elements;
        self.past_elements += other.past_elements;
    }
}

impl Graph {
    /// The cost of a node. One of weights and constants alone ([`Self::constants`]) costs this once, not per run.
    pub fn cost(&self, node: &Node) -> Cost {
        let elements = |index: usize| self.value(node.operands[index]).ty.elements() as u64;
        let result = self.value(node.result).ty.elements() as u64;
        let rows = self.value(node.result).ty.rows() as u64;
        match &node.op {
            Op::Linear { activation, .. } => Cost {
                flops: 2 * rows * elements(1)
                    + result * (u64::from(node.operands.len() > 2) + u64::from(activation.is_some())),
                weight_elements: elements(1),
                past_elements: 0,
            },
            Op::GatedLinear { .. } => Cost {
                flops: 4 * rows * elements(1) + 2 * result,
                weight_elements: 2 * elements(1),
                past_elements: 0,
            },
            Op::Attention(attention) => self.attention_cost(node, attention),
            // Views, lists of a few hundred numbers, and moves.
            Op::Slice { .. } | Op::Repeat { .. } | Op::Concat { .. } | Op::Patchify { .. } => Cost::default(),
            Op::Choose => Cost::default(),
            Op::PrefixMask { .. } | Op::Positions | Op::PositionsAfter { .. } => Cost::default(),
            Op::LayerNorm { .. } => Cost { flops: 7 * result, ..Cost::default() },
            Op::RmsNorm { .. } => {
                let operations = if node.operands.len() > 2 { 5 } else { 4 };
                Cost { flops: operations * result, ..Cost::default() }
            }
            Op::Rotary { .. } => Cost { flops: 3 * result, ..Cost::default() },
            Op::EulerStep { .. } => Cost { flops: 2 * result, ..Cost::default() },
            Op::Guide { .. } => Cost { flops: 7 * result, ..Cost::default() },
            Op::RotaryTable { .. } | Op::Embedding { .. } => Cost { flops: result, ..Cost::default() },
            Op::Add | Op::Multiply | Op::Activate(_) => Cost { flops: result, ..Cost::default() },
        }
    }

    /// Scores, softmax (five per score) and weighted values of the keys that each query sees; masks are not known here.
    fn attention_cost(&self, node: &Node, attention: &Attention) -> Cost {
        let rows = |index: usize| self.shape(node.operands[index])[0];
        let (queries, own) = (rows(0) / attention.sequences, rows(1) / attention.sequences);
        let blocks = &attention.blocks;
        let seen: usize = match blocks.is_empty() {
            true => queries * own,
            false => blocks[own - queries..]
                .iter()
                .map(|block| blocks.partition_point(|other| other <= block))
                .sum(),
        };
        let past = if attention.past { rows(3) } else { 0 };
        let pairs = (attention.sequences * (seen + queries * past) * attention.heads) as u64;
        Cost {
            flops: pairs * (4 * attention.head_dim as u64 + 5),
            weight_elements: 0,
            past_elements: (2 * past * attention.kv_heads * attention.head_dim) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder, TensorType};

    #[test]
    fn a_linear_costs_two_per_weight_and_row() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([5, 4]));
        let (w, bias) = (b.weight("w", &[3, 4]), b.weight("b", &[3]));
        b.linear("plain", x, w, None).unwrap();
        b.linear("biased", x, w, Some(bias)).unwrap();
        let gated = Op::GatedLinear { activation: Activation::Silu };
        b.add_node("gated", gated, &[x, w, w]).unwrap();
        let graph = b.finish();
        let costs: Vec<Cost> = graph.nodes.iter().map(|node| graph.cost(node)).collect();
        let linear = 2 * 5 * 12;
        assert_eq!(
            costs.iter().map(|cost| cost.flops).collect::<Vec<_>>(),
            [linear, linear + 15, 2 * linear + 30]
        );
        assert_eq!(costs.iter().map(|cost| cost.weight_elements).collect::<Vec<_>>(), [12, 12, 24]);
    }

    #[test]
    fn an_attention_costs_what_its_queries_see() {
        let mut b = GraphBuilder::new("test");
        let (q, past) = (b.input("q", TensorType::f32([3, 8])), b.input("past", TensorType::f32([10, 4])));
        let k = b.input("k", TensorType::f32([3, 4]));
        let attention = Attention {
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            scale: 0.5,
            sequences: 1,
            past: true,
            masked: false,
            blocks: vec![0, 1, 1],
        };
        b.attention("attention", attention, &[q, k, k, past, past]).unwrap();
        let graph = b.finish();
        let cost = graph.cost(&graph.nodes[0]);
        // One query sees one own key, two see three; all see ten past keys; two heads.
        assert_eq!(cost.flops, (1 + 2 * 3 + 3 * 10) * 2 * (4 * 4 + 5));
        assert_eq!(cost.past_elements, 2 * 10 * 4);
    }
}
