//! Parts of a graph: what a constant value is made of, by name or as a graph of its own. Called by devices, which compute
//! constant values once and keep one copy of equal ones.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Binding, Graph, HostTensor, Node, Source, ValueId};

impl Graph {
    /// What a value is made of: equal for equal values, in this and other graphs of the same checkpoint.
    pub fn recipe(&self, id: ValueId) -> String {
        let value = self.value(id);
        let node = match &value.source {
            Source::Weight { key, .. } => return key.clone(),
            Source::Constant(tensor) => return format!("constant {:016x}", fingerprint(tensor)),
            Source::Input | Source::Resident => return value.name.clone(),
            Source::Node(index) => &self.nodes[*index],
        };
        let operands: Vec<String> = node.operands.iter().map(|&operand| self.recipe(operand)).collect();
        format!("{:?} of {}", node.op, operands.join(", "))
    }

    /// A graph of what a value is made of, with the value as its only output, `name`.
    pub fn only(&self, id: ValueId, name: &str) -> Self {
        self.parts([(id, name.to_owned())])
    }

    /// A graph of what some values are made of, with these as its outputs.
    pub fn parts(&self, wanted: impl IntoIterator<Item = (ValueId, String)>) -> Self {
        let mut part = Self {
            name: format!("{}, constants", self.name),
            values: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            residents: Vec::new(),
        };
        let mut copied = HashMap::new();
        for (id, name) in wanted {
            let value = self.copy_into(&mut part, id, &mut copied);
            part.outputs.push(Binding { name, value });
        }
        part
    }

    fn copy_into(&self, part: &mut Self, id: ValueId, copied: &mut HashMap<ValueId, ValueId>) -> ValueId {
        if let Some(&known) = copied.get(&id) {
            return known;
        }
        let mut value = self.value(id).clone();
        let node = match value.source {
            Source::Node(index) => Some(&self.nodes[index]),
            _ => None,
        };
        let operands: Option<Vec<ValueId>> = node
            .map(|node| node.operands.iter().map(|&operand| self.copy_into(part, operand, copied)).collect());
        let result = ValueId(part.values.len() as u32);
        if let (Some(node), Some(operands)) = (node, operands) {
            value.source = Source::Node(part.nodes.len());
            part.nodes.push(Node { operands, result, ..node.clone() });
        }
        part.values.push(value);
        copied.insert(id, result);
        result
    }
}

fn fingerprint(tensor: &HostTensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    match tensor {
        HostTensor::F32(values) => values.iter().for_each(|value| value.to_bits().hash(&mut hasher)),
        HostTensor::I32(values) => values.hash(&mut hasher),
        HostTensor::Bool(values) => values.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use crate::graph::{Graph, GraphBuilder, Op, TensorType};

    fn graph(key: &str) -> Graph {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([3, 4]));
        let (w, v) = (b.weight(key, &[2, 4]), b.weight("v", &[2, 4]));
        let both = b.concat("both", &[w, v], 0).unwrap();
        let y = b.linear("y", x, both, None).unwrap();
        b.output("y", y);
        b.finish()
    }

    #[test]
    fn a_part_has_what_its_value_needs_and_nothing_else() {
        let graph = graph("w");
        let part = graph.only(graph.nodes[0].result, "both");
        assert_eq!(part.inputs().count(), 0);
        let [node] = &part.nodes[..] else { panic!("{:?}", part.nodes) };
        assert_eq!(node.op, Op::Concat { axis: 0 });
        assert_eq!(part.shape(part.outputs[0].value), [4, 4]);
    }

    #[test]
    fn equal_values_have_equal_recipes() {
        let recipe = |graph: &Graph| graph.recipe(graph.nodes[0].result);
        assert_eq!(recipe(&graph("w")), recipe(&graph("w")));
        assert_ne!(recipe(&graph("w")), recipe(&graph("u")));
    }
}
