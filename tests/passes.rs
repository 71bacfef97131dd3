//! Every pass of the graph keeps the model's values: each one alone, on the golden models as their formulas stand, gives
//! the actions that the graph as written gives.
//!
//! Tolerance: 1e-5 of the largest action. A pass may change the order of a sum, nothing else.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use golden::Golden;
use model::{cameras, run};
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::graph::{Graph, GraphError, passes};
use pi0_node::policy::{Intermediates, PolicyGraphs};

type Pass = fn(Graph) -> Result<Graph, GraphError>;

const PASSES: [(&str, Pass); 8] = [
    ("merge_common_nodes", |graph| Ok(passes::merge_common_nodes(graph))),
    ("remove_dead_nodes", |graph| Ok(passes::remove_dead_nodes(graph))),
    ("hoist_constant_columns", passes::hoist_constant_columns),
    ("reuse_rows", passes::reuse_rows),
    ("fuse_activations", |graph| Ok(passes::fuse_activations(graph))),
    ("fuse_gates, on fused activations", |graph| passes::fuse_gates(passes::fuse_activations(graph))),
    ("fuse_projections", passes::fuse_projections),
    ("simplify", passes::simplify),
];

#[test]
fn no_pass_changes_the_actions() {
    for file in golden::FILES {
        let golden = Golden::load(file);
        let written =
            PolicyGraphs::as_written(&golden.config, cameras(&golden), &Intermediates::None).unwrap();
        let actions =
            |graphs: &PolicyGraphs| run(&golden, graphs, Isa::Portable, Precision::F32)["actions"].numbers();
        let expected = actions(&written);
        let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        for (name, pass) in PASSES {
            let graphs = PolicyGraphs {
                perceive: pass(written.perceive.clone()).unwrap(),
                act: pass(written.act.clone()).unwrap(),
            };
            let largest =
                actions(&graphs).iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            println!("{file} {name}: {largest:.1e} of {size:.1e}");
            assert!(largest <= 1e-5 * size, "{file} {name}: {largest:e} of {size:e}");
        }
    }
}

/// What the passes are for: fewer and smaller nodes. The counts are of the graphs of 10 steps and 2 layers.
#[test]
fn passes_make_the_programs_smaller() {
    let golden = Golden::load("pi0_3cam_pad");
    let count = |graph: &Graph| {
        let constant = graph.constants();
        graph.nodes.iter().filter(|node| !constant[node.result.index()]).count()
    };
    let build = |graphs: PolicyGraphs| [count(&graphs.perceive), count(&graphs.act)];
    let cameras = cameras(&golden);
    let written = build(PolicyGraphs::as_written(&golden.config, cameras, &Intermediates::None).unwrap());
    let simplified = build(PolicyGraphs::build(&golden.config, cameras, &Intermediates::None).unwrap());
    println!("{written:?} -> {simplified:?}");
    assert!(simplified.iter().zip(written).all(|(after, before)| *after < before));
}

/// Of the prefix's last layer only keys and values are read: its queries, attention and feed-forward half are not there.
#[test]
fn the_last_prefix_layer_is_its_keys_and_values() {
    let golden = Golden::load("pi0_3cam_pad");
    let graphs = PolicyGraphs::build(&golden.config, cameras(&golden), &Intermediates::None).unwrap();
    let constant = graphs.perceive.constants();
    let last = format!("vlm.layers.{}.", golden.config.vlm.layers - 1);
    let names: Vec<&str> = graphs
        .perceive
        .nodes
        .iter()
        .filter(|node| !constant[node.result.index()])
        .filter_map(|node| node.name.strip_prefix(&last))
        .collect();
    assert_eq!(names, ["attn.norm", "attn.k+v", "attn.k", "attn.v", "attn.k_rotary"]);
}
