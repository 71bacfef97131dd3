//! What element types and the multiplier's passes do to a model on a Tenstorrent card, of any size: the lowered programs op by op
//! through Tenstorrent's own definitions, rounded in many ways at once (tests/tenstorrent/accuracy.py), beside f32.
//!
//! The way that is chosen (device/tenstorrent/precision.rs) must keep every component by itself and the actions at the end above a
//! correlation of 0.99, the steps by themselves above 0.987; the table of all ways says what each choice costs. It needs PyTorch, and at full size about ten minutes and 14 GB
//! of disk, so `cargo xtask test --tt-accuracy` asks for it by variables. Weights are like trained ones (support/trained_like),
//! or a checkpoint's.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/lowered.rs"]
mod lowered;
#[path = "support/model.rs"]
mod model;
#[path = "support/trained_like.rs"]
mod trained_like;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use pi0_node::device::tenstorrent::program::Origin;
use pi0_node::device::tenstorrent::{
    Card, DataType, Precisions, Program, Residents, WeightTypes, lower, simplify, with_products,
};
use pi0_node::graph::{DType, Graph, TensorType, Weights};
use pi0_node::policy::{
    Checkpoint, Component, IMAGE_MASKS, Intermediates, NOISE, PolicyConfig, PolicyGraphs, TOKEN_MASK, TOKENS,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use trained_like::{Attention, FIRST_TOKEN, TrainedLike, VOCABULARY};

/// A Python with PyTorch, ttnn and safetensors.
const PYTHON: &str = "PI0_TTNN_GOLDEN_PYTHON";
/// Sizes (tiny, mini, pi0, pi05-tiny, pi05-mini, pi05), with `-sharp` behind for unequal scores, or checkpoint folders, separated
/// by commas.
const MODELS: &str = "PI0_TTNN_ACCURACY";
/// Enough: every camera's images take the same way, and the prefix is as deep with one.
const CAMERAS: usize = 1;
/// Tokens of a prompt; all of them count.
const PROMPT: usize = 32;
/// Behind a size's name: attention looks at few tokens.
const SHARP: &str = "-sharp";
/// What every component must have that is given exact values, and the actions.
const GOAL: f64 = 0.99;
/// The way that precision.rs has.
const CHOSEN: &str = "as chosen";
/// What tt-metal's port of pi0.5 does, as far as it is a matter of types: its own figure with trained weights, end to end after
/// ten steps, is 0.926.
const PORT: &str = "as tt-metal's pi0.5";

const SIGLIP: &[&str] = &["patch embedding", "SigLIP blocks", "projector"];
const PREFIX: &[&str] = &["prefix layers"];
const PREFIX_ATTENTION: &[&str] = &["prefix layers/attention"];
const STEPS: &[&str] = &["suffix embeddings", "expert layers", "output projection"];
const PROMPT_EMBEDDING: &[&str] = &["language embedding"];
const EVERYTHING: &[&str] = &["*"];

/// A part of the model rounded as chosen while the others are exact, and which outputs are its own.
struct Alone {
    name: &'static str,
    components: &'static [&'static str],
    outputs: &'static [&'static str],
    least: f64,
}

const ALONE: [Alone; 3] = [
    Alone { name: "as chosen, SigLIP alone", components: SIGLIP, outputs: &["vis_", "proj_"], least: GOAL },
    Alone {
        name: "as chosen, the prefix alone",
        components: PREFIX,
        outputs: &["cache_k_", "cache_v_"],
        least: GOAL,
    },
    // pi0-sharp's worst velocity: 0.9897, or 0.9911 with keys and values in bfloat16, which at the end is less than 0.0002.
    Alone {
        name: "as chosen, the steps alone",
        components: STEPS,
        outputs: &["expert_out_", "v_t_"],
        least: 0.987,
    },
];

/// A way to round, as accuracy.py takes it: the program's own but for what is changed.
#[derive(Clone)]
struct Way(Value);

impl Way {
    fn named(name: &str) -> Self {
        Self(json!({ "name": name }))
    }

    fn with(mut self, what: &str, components: &[&str], value: Value) -> Self {
        components.iter().for_each(|component| self.0[what][component] = value.clone());
        self
    }

    fn weights(self, dtype: &str, components: &[&str]) -> Self {
        self.with("weights", components, json!(dtype))
    }

    /// Activations in bfloat8_b.
    fn block_activations(self, components: &[&str]) -> Self {
        self.with("activations", components, json!("bfloat8_b"))
    }

    fn passes(self, changed: Value, components: &[&str]) -> Self {
        self.with("fidelity", components, changed)
    }

    fn one_pass(self, components: &[&str]) -> Self {
        self.passes(json!({ "HiFi2": "LoFi" }), components)
    }

    fn four_passes(self, components: &[&str]) -> Self {
        self.passes(json!({ "HiFi2": "HiFi4" }), components)
    }

    /// Attention's exponentials, `exact` or `approximate`.
    fn exponentials(self, kind: &str, components: &[&str]) -> Self {
        self.with("exponentials", components, json!(kind))
    }

    /// The others in f32.
    fn only(self, components: &[&str]) -> Self {
        let all = [SIGLIP, PREFIX, STEPS, PROMPT_EMBEDDING].concat();
        let others: Vec<&str> = all.into_iter().filter(|component| !components.contains(component)).collect();
        self.with("exact", &others, json!(true))
    }
}

/// With `steps_alone` those that only change what perceive computes are left out.
fn ways(steps_alone: bool) -> Vec<Value> {
    let mut ways = vec![
        Way::named("f32"),
        Way::named(CHOSEN),
        Way::named("weights bfloat8_b").weights("bfloat8_b", EVERYTHING),
        Way::named("weights bfloat16").weights("bfloat16", EVERYTHING),
        Way::named("the steps' weights bfloat16").weights("bfloat16", STEPS),
        Way::named("one pass in the steps").one_pass(STEPS),
        Way::named("activations bfloat8_b in the steps").block_activations(STEPS),
        Way::named("four passes").four_passes(EVERYTHING),
        Way::named("exponentials approximate").exponentials("approximate", EVERYTHING),
        Way::named("exponentials exact").exponentials("exact", EVERYTHING),
        Way::named(PORT)
            .weights("bfloat8_b", EVERYTHING)
            .block_activations(&[SIGLIP, PREFIX, STEPS].concat())
            .one_pass(&[SIGLIP, STEPS].concat())
            .exponentials("approximate", EVERYTHING),
    ];
    if !steps_alone {
        ways.extend([
            Way::named("SigLIP's weights bfloat8_b").weights("bfloat8_b", SIGLIP),
            Way::named("one pass in SigLIP").one_pass(SIGLIP),
            Way::named("activations bfloat8_b in SigLIP").block_activations(SIGLIP),
            Way::named("exponentials approximate in SigLIP").exponentials("approximate", SIGLIP),
            Way::named("weights of the prefix's attention bfloat8_b").weights("bfloat8_b", PREFIX_ATTENTION),
            Way::named("weights of the prefix's MLP bfloat16").weights("bfloat16", PREFIX),
            Way::named("one pass in the prefix").one_pass(PREFIX),
            Way::named("activations bfloat8_b in the prefix").block_activations(PREFIX),
        ]);
    }
    ways.extend(ALONE.map(|alone| Way::named(alone.name).only(alone.components)));
    ways.into_iter().map(|way| way.0).collect()
}

/// A model, and who has its weights.
struct Model {
    name: String,
    config: PolicyConfig,
    weights: Box<dyn Weights + Sync>,
}

impl Model {
    fn named(name: &str) -> Self {
        let sizes = [
            ("tiny", PolicyConfig::TINY),
            ("mini", PolicyConfig::MINI),
            ("pi0", PolicyConfig::PI0),
            ("pi05-tiny", PolicyConfig::PI05_TINY),
            ("pi05-mini", PolicyConfig::PI05_MINI),
            ("pi05", PolicyConfig::PI05),
        ];
        let (size, attention) = match name.strip_suffix(SHARP) {
            Some(size) => (size, Attention::Sharp),
            None => (name, Attention::Even),
        };
        let (mut config, weights): (_, Box<dyn Weights + Sync>) =
            match sizes.iter().find(|(known, _)| *known == size) {
                Some((_, config)) => {
                    let vocabulary = config.vocabulary.min(VOCABULARY);
                    (PolicyConfig { vocabulary, ..*config }, Box::new(TrainedLike::new(attention)))
                }
                None => {
                    let checkpoint =
                        Checkpoint::open(Path::new(name)).unwrap_or_else(|error| panic!("{error}"));
                    (*checkpoint.config(), Box::new(checkpoint))
                }
            };
        config.prompt_tokens = PROMPT;
        Self { name: name.to_owned(), config, weights }
    }
}

/// What a robot might write: smooth images with some noise, a prompt, a state and noise to begin with.
fn input(random: &mut ChaCha8Rng, name: &str, ty: &TensorType, config: &PolicyConfig) -> Vec<f64> {
    let elements = ty.elements();
    let mut normal = || Distribution::<f64>::sample(&StandardNormal, random);
    match (name, ty.dtype) {
        (IMAGE_MASKS | TOKEN_MASK, _) => vec![1.0; elements],
        (TOKENS, _) | (_, DType::I32) => {
            let tokens = VOCABULARY.min(config.vocabulary) - FIRST_TOKEN;
            let token =
                |place: usize| if place == 0 { FIRST_TOKEN } else { FIRST_TOKEN + 37 * place % tokens };
            (0..elements).map(|place| token(place) as f64).collect()
        }
        (name, _) if name.starts_with("image_") => {
            let side = config.vision.image;
            let waves: Vec<[f64; 4]> = (0..3 * 8).map(|_| [normal(), normal(), normal(), normal()]).collect();
            let pixel = |index: usize| {
                let (channel, y, x) = (index / side / side, index / side % side, index % side);
                let at = |place: usize| place as f64 / side as f64;
                let sum: f64 = waves[8 * channel..8 * (channel + 1)]
                    .iter()
                    .map(|[fx, fy, phase, size]| 0.3 * size * (6.0 * (fx * at(x) + fy * at(y)) + phase).sin())
                    .sum();
                let seen = (sum + 0.05 * normal()).clamp(-1.0, 1.0);
                ((seen + 1.0) * 127.5).round() / 127.5 - 1.0
            };
            (0..elements).map(pixel).collect()
        }
        _ => (0..elements).map(|_| normal()).collect(),
    }
}

/// A node's component, and which half of a layer it is in.
fn part(graph: &str, node: &str) -> String {
    let component = Component::of(graph, node);
    let halves = [(".attn", "attention"), (".mlp", "MLP")];
    match halves.iter().find(|(name, _)| node.contains(name)) {
        Some((_, half)) => format!("{component}/{half}"),
        None => component.to_string(),
    }
}

/// Writes a program, what its calls' components are and which tensors have large weights: those that are bfloat8_b in
/// `with_blocks`. Gives the contents that are still to be written.
fn write_program(
    folder: &Path,
    graph: &Graph,
    [program, with_blocks]: [&Program; 2],
    contents: &mut HashMap<String, usize>,
) -> Vec<(usize, usize)> {
    let mut text = program.to_json();
    for (call, entry) in program.calls.iter().zip(text["calls"].as_array_mut().unwrap()) {
        entry["component"] = json!(part(&graph.name, &call.node));
    }
    let tensors = text["tensors"].as_array_mut().unwrap();
    for (tensor, entry) in with_blocks.tensors.iter().zip(tensors) {
        entry["is_large_weight"] = json!(tensor.dtype == DataType::Bfloat8B);
    }
    let (mut numbers, mut new) = (json!({}), Vec::new());
    for (id, tensor) in program.ids() {
        if let Origin::Content(content) = &tensor.origin {
            let next = contents.len();
            let number = *contents.entry(content.key().to_owned()).or_insert(next);
            if number == next {
                new.push((id.0 as usize, number));
            }
            numbers[id.0.to_string()] = json!(number);
        }
    }
    text["contents"] = numbers;
    std::fs::write(folder.join(format!("{}.json", program.name)), text.to_string()).unwrap();
    new
}

/// Writes contents, each into a file, in bf16 where that is exact.
fn write_contents(
    folder: &Path,
    graph: &Graph,
    program: &Program,
    new: &[(usize, usize)],
    weights: &(dyn Weights + Sync),
) {
    let graph = with_products(graph, weights).unwrap();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(tensor, number)) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Origin::Content(content) = &program.tensors[tensor].origin else { unreachable!() };
                    let values = content.f32(&graph, weights).unwrap();
                    let short = |x: f32| bf16::from_f32(x);
                    let (dtype, bytes): (_, Vec<u8>) = match values.iter().all(|&x| short(x).to_f32() == x) {
                        true => (Dtype::BF16, values.iter().flat_map(|&x| short(x).to_le_bytes()).collect()),
                        false => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
                    };
                    let view = TensorView::new(dtype, vec![values.len()], &bytes).unwrap();
                    let path = folder.join(format!("contents/{number}.safetensors"));
                    safetensors::serialize_to_file([("value", view)], None, &path).unwrap();
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(50) {
                        eprintln!("{}: {done} of {} weights written", program.name, new.len());
                    }
                }
            });
        }
    });
}

/// By scheme and output: correlation with f32, relative rms, size beside f32's.
type Differences = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

fn compare(model: &Model, schemes: &[Value], graphs: &PolicyGraphs, python: &Path) -> Differences {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("contents")).unwrap();
    std::fs::write(folder.join("schemes.json"), Value::from(schemes).to_string()).unwrap();
    let (mut residents, mut of_blocks, mut contents) = (Residents::new(), Residents::new(), HashMap::new());
    let blocks = Precisions { weights: WeightTypes::Bfloat8B };
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut inputs: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for graph in [&graphs.perceive, &graphs.act] {
        let program = lower(graph, &Card::P150, Precisions::default(), &mut residents).unwrap();
        let with_blocks = lower(graph, &Card::P150, blocks, &mut of_blocks).unwrap();
        assert_eq!(with_blocks.tensors.len(), program.tensors.len());
        for (id, tensor) in program.ids() {
            if let Origin::Input(name) = &tensor.origin {
                let ty = &graph.inputs().find(|(_, value)| value.name == *name).unwrap().1.ty;
                let numbers = input(&mut random, name, ty, &model.config);
                let physical = lowered::input(&program, name, &numbers);
                inputs.insert(format!("{}.{}", program.name, id.0), physical);
                if name == NOISE {
                    inputs.insert(NOISE.into(), numbers.iter().map(|&x| x as f32).collect());
                }
            }
        }
        let new = write_program(folder, graph, [&program, &with_blocks], &mut contents);
        write_contents(folder, graph, &program, &new, &*model.weights);
    }
    let bytes: BTreeMap<&String, Vec<u8>> = inputs
        .iter()
        .map(|(name, values)| (name, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, bytes)| {
        let shape = match name.as_str() {
            NOISE => vec![model.config.action_horizon, model.config.action_dim],
            _ => vec![bytes.len() / 4],
        };
        (*name, TensorView::new(Dtype::F32, shape, bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("inputs.safetensors")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tenstorrent/accuracy.py");
    let status = Command::new(python).arg(script).arg(folder).status().unwrap();
    assert!(status.success(), "accuracy.py: {status}");
    serde_json::from_slice(&std::fs::read(folder.join("differences.json")).unwrap()).unwrap()
}

/// Whether an output is one of a column.
type Belongs = fn(&str) -> bool;

/// What the table has columns for.
const COLUMNS: [(&str, Belongs); 8] = [
    ("SigLIP", |name| name.starts_with("vis_")),
    ("projector", |name| name.starts_with("proj_")),
    ("keys", |name| name.starts_with("cache_k_")),
    ("values", |name| name.starts_with("cache_v_")),
    ("expert", |name| name.starts_with("expert_out_")),
    ("velocity", |name| name.starts_with("v_t_")),
    ("actions", |name| name == "actions"),
    ("actions - noise", |name| name == "moved"),
];

fn table(model: &Model, schemes: &[Value], found: &Differences) -> String {
    let worst = |outputs: &BTreeMap<String, BTreeMap<String, f64>>, belongs: Belongs| {
        outputs
            .iter()
            .filter(|(name, _)| belongs(name))
            .map(|(_, difference)| difference["pcc"])
            .fold(1.0, f64::min)
    };
    let names = COLUMNS.map(|(name, _)| name).join(" | ");
    let mut text = format!("{}\n\n| | {names} |\n|---|{}\n", model.name, "---|".repeat(COLUMNS.len()));
    for scheme in &schemes[1..] {
        let name = scheme["name"].as_str().unwrap();
        let cells = COLUMNS.map(|(_, belongs)| format!("{:.5}", worst(&found[name], belongs)));
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    let steps = model.config.denoising_steps;
    text += &format!(
        "\n| velocity, step | {} |\n|---|{}\n",
        (0..steps).map(|step| step.to_string()).collect::<Vec<_>>().join(" | "),
        "---|".repeat(steps)
    );
    for name in [CHOSEN, PORT] {
        let cells: Vec<String> =
            (0..steps).map(|step| format!("{:.5}", found[name][&format!("v_t_{step}")]["pcc"])).collect();
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    text
}

#[test]
fn the_chosen_types_keep_every_component() {
    let (Some(python), Some(models)) = (std::env::var_os(PYTHON), std::env::var(MODELS).ok()) else {
        println!("skipped: {PYTHON} and {MODELS} are not set; `cargo xtask test --tt-accuracy` sets them");
        return;
    };
    let python = PathBuf::from(python);
    let mut wrong = Vec::new();
    for (index, name) in models.split(',').enumerate() {
        let model = Model::named(name);
        // pi0 and pi0.5 perceive alike.
        let schemes = ways(index > 0);
        let graphs = PolicyGraphs::rewritten(&model.config, CAMERAS, &Intermediates::All, simplify).unwrap();
        let found = compare(&model, &schemes, &graphs, &python);
        if let Some(folder) = std::env::var_os("PI0_TTNN_ACCURACY_OUTPUT") {
            let file = name.replace(['/', '.'], "_");
            std::fs::write(
                Path::new(&folder).join(format!("{file}.json")),
                serde_json::to_string(&found).unwrap(),
            )
            .unwrap();
        }
        println!("{}", table(&model, &schemes, &found));
        let mut check = |way: &str, outputs: &[&str], least: f64| {
            for (output, difference) in &found[way] {
                let belongs = outputs.iter().any(|start| output.starts_with(start));
                if belongs && difference["pcc"] < least {
                    wrong.push(format!("{name}, {way}, {output}: {}", difference["pcc"]));
                }
            }
        };
        check(CHOSEN, &["actions", "moved"], GOAL);
        ALONE.iter().for_each(|alone| check(alone.name, alone.outputs, alone.least));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
