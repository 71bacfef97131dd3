//! The parts of a model by which people speak of it, found from the name paths of the graphs' nodes. Called by `cli audit` and
//! `cli plan`, which say for each part what runs it and what it costs.

use std::fmt;

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    PatchEmbedding,
    SiglipBlocks,
    Projector,
    LanguageEmbedding,
    PrefixMask,
    PrefixLayers,
    SuffixPositions,
    SuffixEmbeddings,
    ExpertLayers,
    OutputProjection,
    EulerSteps,
}

impl Component {
    pub const ALL: [Self; 11] = [
        Self::PatchEmbedding,
        Self::SiglipBlocks,
        Self::Projector,
        Self::LanguageEmbedding,
        Self::PrefixMask,
        Self::PrefixLayers,
        Self::SuffixPositions,
        Self::SuffixEmbeddings,
        Self::ExpertLayers,
        Self::OutputProjection,
        Self::EulerSteps,
    ];

    /// The part that a node of one of the graphs, or one of its inputs, belongs to.
    pub fn of(graph: &str, node: &str) -> Self {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| node.starts_with(prefix));
        if graph == "perceive" {
            return match () {
                () if starts(&["vision.pa", "vision.positions", "image_"]) && node != "image_masks" => {
                    Self::PatchEmbedding
                }
                () if starts(&["vision."]) => Self::SiglipBlocks,
                () if starts(&["projector", "proj_"]) => Self::Projector,
                () if starts(&["embed_prompt", "tokens"]) || node == "prefix" => Self::LanguageEmbedding,
                () if starts(&["vlm.layers", "vlm.norm"]) => Self::PrefixLayers,
                () => Self::PrefixMask,
            };
        }
        let in_step = node.strip_prefix("steps.").and_then(|rest| rest.split_once('.')).map(|(_, rest)| rest);
        match in_step {
            Some(rest) if rest.starts_with("expert") => Self::ExpertLayers,
            Some(rest) if rest.starts_with("action_out_proj") => Self::OutputProjection,
            Some(rest) if rest.starts_with("euler_step") => Self::EulerSteps,
            Some(_) => Self::SuffixEmbeddings,
            None if starts(&["state", "noise", "time_", "given", "previous_chunk", "prefix_weights"]) => {
                Self::SuffixEmbeddings
            }
            None => Self::SuffixPositions,
        }
    }

    /// Number of the denoising step that a node of the act graph belongs to.
    pub fn step(node: &str) -> Option<usize> {
        node.strip_prefix("steps.")?.split('.').next()?.parse().ok()
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PatchEmbedding => "patch embedding",
            Self::SiglipBlocks => "SigLIP blocks",
            Self::Projector => "projector",
            Self::LanguageEmbedding => "language embedding",
            Self::PrefixMask => "prefix mask, positions",
            Self::PrefixLayers => "prefix layers",
            Self::SuffixPositions => "suffix positions",
            Self::SuffixEmbeddings => "suffix embeddings",
            Self::ExpertLayers => "expert layers",
            Self::OutputProjection => "output projection",
            Self::EulerSteps => "Euler steps",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Intermediates, PolicyConfig, PolicyGraphs};

    #[test]
    fn every_component_has_nodes() {
        for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
            let graphs = PolicyGraphs::build(&config, 2, &Intermediates::None).unwrap();
            let of = |graph: &crate::graph::Graph| {
                let constant = graph.constants();
                let nodes = graph.nodes.iter().filter(|node| !constant[node.result.index()]);
                nodes.map(|node| Component::of(&graph.name, &node.name)).collect::<Vec<_>>()
            };
            let found = [of(&graphs.perceive), of(&graphs.act)].concat();
            for component in Component::ALL {
                assert!(found.contains(&component), "{component} of {}", config.variant.name);
            }
        }
    }

    #[test]
    fn nodes_are_told_apart_by_their_path() {
        for (graph, node, component) in [
            ("perceive", "vision.patch_embedding", Component::PatchEmbedding),
            ("perceive", "vision.layers.3.mlp.fc1", Component::SiglipBlocks),
            ("perceive", "image_masks", Component::PrefixMask),
            ("perceive", "vlm.rotary_table", Component::PrefixMask),
            ("perceive", "vlm.layers.0.attn.q+k+v", Component::PrefixLayers),
            ("act", "state_proj", Component::SuffixEmbeddings),
            ("act", "steps.7.action_time_mlp_in", Component::SuffixEmbeddings),
            ("act", "steps.7.expert.norm", Component::ExpertLayers),
            ("act", "steps.7.euler_step", Component::EulerSteps),
            ("act", "rotary_table", Component::SuffixPositions),
        ] {
            assert_eq!(Component::of(graph, node), component, "{node}");
        }
        assert_eq!(Component::step("steps.12.suffix"), Some(12));
        assert_eq!(Component::step("state_proj"), None);
    }
}
