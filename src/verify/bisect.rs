//! Finds the first value that is off: between one that is right and one that is wrong, the values on the way are asked for one
//! at a time, so that all others are computed as they always are. Part of `verify`.

use std::collections::{BTreeMap, BTreeSet};

use super::difference::Difference;
use super::landmarks::varying;
use super::probe::{Place, Program};
use crate::graph::{Graph, Source, ValueId};

/// Tells how far a value of the device is from the reference's; `None` where the device cannot be asked for it.
pub trait Judge {
    fn difference(&mut self, value: ValueId) -> Option<Difference>;
    fn is_off(&self, value: ValueId, difference: Difference) -> bool;
}

/// The value at which things go wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstOff {
    /// Name path of the node that makes it.
    pub node: String,
    /// Its operation.
    pub operation: &'static str,
    pub difference: Difference,
    /// What it reads, as far as it is computed: how far that is off. All of these are within the tolerance.
    pub operands: Vec<(String, Difference)>,
}

/// The values that `wrong` depends on and that `right`, a value of the same graph that is known to be right, does not, in the
/// order in which they are computed, `wrong` the last.
pub fn candidates(graph: &Graph, right: Option<Place>, wrong: Place) -> Vec<ValueId> {
    let varying = varying(graph);
    let ancestors = |of: ValueId| {
        let (mut found, mut open) = (BTreeSet::new(), vec![of]);
        while let Some(value) = open.pop() {
            if let Source::Node(index) = graph.value(value).source
                && varying[index]
                && found.insert(index)
            {
                open.extend(&graph.nodes[index].operands);
            }
        }
        found
    };
    let known = right.filter(|right| right.program == wrong.program).map(|right| ancestors(right.value));
    let known = known.unwrap_or_default();
    ancestors(wrong.value).difference(&known).map(|&index| graph.nodes[index].result).collect()
}

/// The first of `candidates` that is off while everything it reads is right. The last of them is known to be off.
pub fn first_off(graph: &Graph, candidates: &[ValueId], judge: &mut impl Judge) -> Option<FirstOff> {
    let mut known: BTreeMap<ValueId, Option<Difference>> = BTreeMap::new();
    let mut ask = |value: ValueId| {
        let difference = *known.entry(value).or_insert_with(|| judge.difference(value));
        difference.map(|difference| (difference, judge.is_off(value, difference)))
    };
    let is_off = |ask: &mut dyn FnMut(ValueId) -> Option<(Difference, bool)>, value: ValueId| {
        ask(value).is_some_and(|(_, off)| off)
    };
    // Halving supposes that what follows something wrong is wrong; where that is not so, the walk below puts it right.
    let (mut low, mut high) = (0, candidates.len().checked_sub(1)?);
    if !is_off(&mut ask, candidates[high]) {
        return None;
    }
    while low < high {
        let middle = (low + high) / 2;
        match is_off(&mut ask, candidates[middle]) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    let mut value = candidates[high];
    loop {
        let Source::Node(index) = graph.value(value).source else { return None };
        let node = &graph.nodes[index];
        let read = node.operands.iter().copied().filter(|operand| candidates.contains(operand));
        let read: Vec<ValueId> = read.collect();
        match read.iter().copied().find(|&operand| is_off(&mut ask, operand)) {
            Some(earlier) => value = earlier,
            None => {
                let (difference, _) = ask(value)?;
                let operands = read
                    .iter()
                    .filter_map(|&operand| Some((graph.value(operand).name.clone(), ask(operand)?.0)));
                return Some(FirstOff {
                    node: node.name.clone(),
                    operation: node.op.kind(),
                    difference,
                    operands: operands.collect(),
                });
            }
        }
    }
}

/// Whether rows of this value count only where the prefix has real tokens.
pub fn is_of_prefix(graph: &Graph, program: Program, value: ValueId, prefix_tokens: usize) -> bool {
    program == Program::Perceive && graph.shape(value).first() == Some(&prefix_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder, TensorType};

    struct Known {
        off: Vec<ValueId>,
        asked: usize,
    }

    impl Judge for Known {
        fn difference(&mut self, value: ValueId) -> Option<Difference> {
            self.asked += 1;
            let relative_rms = if self.off.contains(&value) { 1.0 } else { 0.0 };
            Some(Difference { relative_rms, ..Difference::NONE })
        }

        fn is_off(&self, _: ValueId, difference: Difference) -> bool {
            difference.relative_rms > 0.5
        }
    }

    /// A chain of `length` with a branch that joins it at the end.
    fn chain(length: usize) -> (Graph, Vec<ValueId>, ValueId) {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let mut values = Vec::new();
        let mut last = x;
        for index in 0..length {
            last = b.activate(&format!("chain.{index}"), Activation::Silu, last).unwrap();
            values.push(last);
        }
        let branch = b.activate("branch", Activation::GeluTanh, x).unwrap();
        values.push(b.add("end", last, branch).unwrap());
        (b.finish(), values, branch)
    }

    #[test]
    fn the_first_of_a_chain_is_found_with_few_questions() {
        let (graph, values, branch) = chain(40);
        let wrong = Place { program: Program::Act, value: values[40] };
        let candidates = candidates(&graph, None, wrong);
        assert_eq!(candidates.len(), 42);
        for first in [0, 1, 17, 39, 40] {
            let mut judge = Known { off: values[first..].to_vec(), asked: 0 };
            let found = first_off(&graph, &candidates, &mut judge).unwrap();
            assert_eq!(found.node, graph.value(values[first]).name);
            assert!(judge.asked < 12, "{}", judge.asked);
        }
        // A branch that stands behind right values.
        let mut judge = Known { off: vec![branch, values[40]], asked: 0 };
        assert_eq!(first_off(&graph, &candidates, &mut judge).unwrap().node, "branch");
    }

    #[test]
    fn only_what_lies_between_is_looked_at() {
        let (graph, values, _) = chain(10);
        let place = |index: usize| Place { program: Program::Act, value: values[index] };
        assert_eq!(candidates(&graph, Some(place(5)), place(8)), values[6..=8]);
    }

    #[test]
    fn a_fault_that_hides_when_asked_for_is_not_found() {
        let (graph, values, _) = chain(10);
        let mut judge = Known { off: Vec::new(), asked: 0 };
        assert_eq!(first_off(&graph, &values, &mut judge), None);
    }
}
