//! Which values of the model are compared: those that have a name of their own, and for a component without one its last. Part
//! of `verify`.

use std::collections::BTreeSet;

use super::probe::{Place, Program};
use crate::graph::{Graph, Source};
use crate::policy::{Component, PolicyGraphs};

/// A value that is compared.
#[derive(Clone, Debug)]
pub struct Landmark {
    /// `cache_k_0`, or the node's name path.
    pub name: String,
    pub place: Place,
    pub component: Component,
    /// The denoising step that it belongs to.
    pub step: Option<usize>,
}

/// Every landmark of the graphs as written with all intermediate values, in the order in which they are computed.
pub fn landmarks(graphs: &PolicyGraphs) -> Vec<Landmark> {
    let mut found = Vec::new();
    for program in [Program::Perceive, Program::Act] {
        let graph = program.of(graphs);
        let varying = varying(graph);
        let named = graph.outputs.iter().filter_map(|output| match graph.value(output.value).source {
            Source::Node(index) if varying[index] => Some((index, output.name.as_str())),
            _ => None,
        });
        let mut chosen: BTreeSet<(usize, &str)> = named.collect();
        let component = |index: usize| Component::of(&graph.name, &graph.nodes[index].name);
        let mut covered: BTreeSet<Component> = chosen.iter().map(|(index, _)| component(*index)).collect();
        for index in (0..graph.nodes.len()).rev().filter(|&index| varying[index]) {
            if covered.insert(component(index)) {
                chosen.insert((index, graph.nodes[index].name.as_str()));
            }
        }
        found.extend(chosen.into_iter().map(|(index, name)| {
            let node = &graph.nodes[index];
            Landmark {
                name: name.to_owned(),
                place: Place { program, value: node.result },
                component: component(index),
                step: Component::step(&node.name).filter(|_| program == Program::Act),
            }
        }));
    }
    found
}

/// By node: whether its result depends on inputs.
pub fn varying(graph: &Graph) -> Vec<bool> {
    let constant = graph.constants();
    graph.nodes.iter().map(|node| !constant[node.result.index()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Intermediates, PolicyConfig};

    #[test]
    fn every_component_and_every_step_has_a_landmark() {
        for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
            let graphs = PolicyGraphs::as_written(&config, 2, &Intermediates::All).unwrap();
            let landmarks = landmarks(&graphs);
            for component in Component::ALL {
                assert!(landmarks.iter().any(|landmark| landmark.component == component), "{component}");
            }
            for step in 0..config.denoising_steps {
                let name = format!("v_t_{step}");
                assert!(landmarks.iter().any(|mark| mark.step == Some(step) && mark.name == name));
            }
        }
    }
}
