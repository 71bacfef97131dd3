//! Checkpoints as people have them: wrapped names, statistics in other places, adapters, folders without a configuration, weights of a
//! run that diverged. Made of a tiny checkpoint of the project's own, asked by `pi0_node check` and `replay`.

#[path = "support/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use program::{fails, pi0_node, succeeds, text};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const BAG: &str = "tests/data/aloha_transfer_cube";
const CONFIG: &str = "config/aloha.yaml";
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

struct Field {
    folder: tempfile::TempDir,
    config: PathBuf,
}

impl Field {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny");
        succeeds(&["checkpoint", "init", "--preset", "tiny", "--seed", "1", path.to_str().unwrap()]);
        Self { config: CONFIG.into(), folder }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("tiny")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.checkpoint().join(name)
    }

    /// The ALOHA configuration with a line more.
    fn set(&mut self, line: &str) {
        let text = fs::read_to_string(CONFIG).unwrap();
        let at = "sync_tolerance_ms:";
        self.config = self.folder.path().join("config.yaml");
        fs::write(&self.config, text.replace(at, &format!("{line}\n    {at}"))).unwrap();
    }

    fn weights(&self, change: impl FnOnce(Tensors) -> Tensors) {
        let path = self.file("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (&str, TensorView)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        write(&path, &change(tensors.iter().map(read).collect()));
    }

    /// Statistics as lerobot's processors have them, in place of openpi's.
    fn processors(&self, statistics: &[(&str, [f32; 14])], relative: Option<Value>) {
        fs::remove_dir_all(self.file("assets")).unwrap();
        let tensors = statistics.iter().map(|(name, values)| ((*name).to_owned(), floats(values))).collect();
        let config = json!({"eps": 1e-8, "norm_map": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}});
        for (name, kind) in [("preprocessor", "normalizer"), ("postprocessor", "unnormalizer")] {
            let file = format!("policy_{name}.safetensors");
            write(&self.file(&file), &tensors);
            let step =
                json!({"registry_name": format!("{kind}_processor"), "config": config, "state_file": file});
            let first = relative.iter().filter(|_| name == "preprocessor");
            let first =
                first.map(|config| json!({"registry_name": "relative_actions_processor", "config": config}));
            let steps: Vec<Value> = first.chain([step]).collect();
            fs::write(self.file(&format!("policy_{name}.json")), json!({"steps": steps}).to_string())
                .unwrap();
        }
    }

    fn check(&self) -> (i32, String) {
        let arguments = ["check", "--config", self.config.to_str().unwrap(), "--checkpoint"];
        let checkpoint = self.checkpoint();
        let ran = pi0_node(&[&arguments[..], &[checkpoint.to_str().unwrap()]].concat());
        // What has several lines stands in a column of its own.
        let said = text(&ran.stdout).lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        (ran.status.code().unwrap(), said)
    }

    /// What `check` finds wrong, which must be something.
    fn refused(&self) -> String {
        let (status, said) = self.check();
        assert_eq!(status, 1, "{said}");
        said.replace(&format!("\n{:34}", ""), "\n")
    }

    /// What `check` says of a checkpoint that can be used.
    fn fits(&self) -> String {
        let (status, said) = self.check();
        assert_eq!(status, 0, "{said}");
        said
    }

    fn replay(&self) -> Vec<String> {
        let (config, checkpoint) = (self.config.to_str().unwrap(), self.checkpoint());
        ["replay", BAG, "--config", config, "--checkpoint", checkpoint.to_str().unwrap(), "--threads", "2"]
            .map(str::to_owned)
            .into()
    }
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn floats(values: &[f32]) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::F32, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn renamed(tensors: Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
}

#[test]
fn names_that_torch_wraps_are_read() {
    for prefix in ["_orig_mod.", "module._orig_mod.model.", "_fsdp_wrapped_module.", "policy.model."] {
        let field = Field::new();
        field.weights(|tensors| renamed(tensors, |name| format!("{prefix}{name}")));
        let said = field.fits();
        assert!(said.contains("every tensor there"), "{prefix}: {said}");
    }
}

#[test]
fn an_unknown_prefix_is_guessed_in_ten_lines() {
    let field = Field::new();
    field.weights(|tensors| renamed(tensors, |name| format!("ema_model.{name}")));
    let said = field.refused();
    assert!(
        said.contains(
            "perhaps the names have 'ema_model.' in front, which nothing known puts there: take it off\n"
        ),
        "{said}"
    );
    assert!(said.lines().count() <= 10 + 10 && said.contains("\n  and "), "{said}");
    let message = fails(&field.replay());
    assert!(message.lines().count() <= 10, "{message}");
}

#[test]
fn what_is_behind_other_tensors_is_guessed() {
    type Change = fn(Tensors) -> Tensors;
    let cases: [(&str, Change); 4] = [
        ("perhaps LoRA weights were saved beside those that they change", |mut tensors| {
            tensors.insert("action_in_proj.lora_A.default.weight".into(), floats(&[1.0]));
            tensors
        }),
        ("perhaps FSDP's flattened parameters", |_| {
            [("_fsdp_wrapped_module._flat_param".into(), floats(&[1.0]))].into()
        }),
        ("perhaps the weights are quantised", |mut tensors| {
            tensors.insert("action_in_proj.weight.absmax".into(), floats(&[1.0]));
            tensors
        }),
        ("perhaps these are not pi0's weights at all", |_| {
            [("backbone.conv1.weight".into(), floats(&[1.0]))].into()
        }),
    ];
    for (expected, change) in cases {
        let field = Field::new();
        field.weights(change);
        let said = field.refused();
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn two_tensors_of_one_name_are_no_guess() {
    let field = Field::new();
    field.weights(|mut tensors| {
        let twin = tensors["action_in_proj.bias"].clone();
        tensors.insert("_orig_mod.action_in_proj.bias".into(), twin);
        tensors
    });
    let said = field.refused();
    assert!(
        said.contains("'_orig_mod.action_in_proj.bias' and 'action_in_proj.bias' are both 'action_in_proj.bias': which is meant?")
            || said.contains("'action_in_proj.bias' and '_orig_mod.action_in_proj.bias' are both 'action_in_proj.bias'"),
        "{said}"
    );
}

#[test]
fn statistics_among_the_weights_are_used_and_it_is_said() {
    let field = Field::new();
    fs::remove_dir_all(field.file("assets")).unwrap();
    field.weights(|mut tensors| {
        for (module, mean, std) in [
            ("normalize_inputs.buffer_observation_state", 0.1, 2.0),
            ("normalize_targets.buffer_action", 0.2, 3.0),
            ("unnormalize_outputs.buffer_action", 0.2, 3.0),
        ] {
            tensors.insert(format!("{module}.mean"), floats(&[mean; 14]));
            tensors.insert(format!("{module}.std"), floats(&[std; 14]));
        }
        tensors
    });
    let said = field.fits();
    assert!(
        said.contains("the statistics are those among the weights in ")
            && said.contains("as lerobot up to 0.3 saved them"),
        "{said}"
    );
    let normalizer = pi0_node::observe::Normalizer::load(
        &field.checkpoint(),
        &pi0_node::settings::Normalization::Checkpoint,
        14,
        pi0_node::observe::Trained { state_dim: 32, action_dim: 32, quantiles: false },
    )
    .unwrap();
    let mut state = [0.0; 32];
    normalizer.normalize_state(&[2.1; 14], &mut state);
    assert!((state[0] - 1.0).abs() < 1e-6 && state[14] == 0.0, "{state:?}");
    let mut actions = [0.0; 14];
    normalizer.unnormalize_actions(&[1.0; 32], &mut actions);
    assert!((actions[13] - 3.2).abs() < 1e-6, "{actions:?}");
    let ran = pi0_node(&field.replay());
    assert!(
        ran.status.success()
            && text(&ran.stderr).contains("note: the statistics are those among the weights")
    );
}

#[test]
fn statistics_of_several_data_sets_are_chosen_by_name() {
    let mut field = Field::new();
    field.processors(
        &[
            ("so100.buffer.observation.state.mean", [0.1; 14]),
            ("so100.buffer.observation.state.std", [2.0; 14]),
            ("so100.buffer.action.mean", [0.1; 14]),
            ("so100.buffer.action.std", [2.0; 14]),
            ("so100-blue.buffer.observation.state.mean", [0.3; 14]),
            ("so100-blue.buffer.observation.state.std", [1.0; 14]),
            ("so100-blue.buffer.action.mean", [0.3; 14]),
            ("so100-blue.buffer.action.std", [1.0; 14]),
        ],
        None,
    );
    let said = field.refused();
    let expected = "the statistics are of several data sets: so100, so100-blue; choose one with the parameter 'norm_stats_dataset'";
    assert!(said.contains(expected), "{said}");
    field.set("norm_stats_dataset: so100-blue");
    assert!(field.fits().contains("statistics for 14 joints"));
    field.set("norm_stats_dataset: so101");
    let said = field.refused();
    assert!(
        said.contains("there is no state of the data set 'so101' (the parameter 'norm_stats_dataset'); there is so100, so100-blue"),
        "{said}"
    );
}

#[test]
fn several_assets_of_openpi_are_chosen_by_folder() {
    let mut field = Field::new();
    let second = field.file("assets/trossen/aloha");
    fs::create_dir_all(&second).unwrap();
    fs::copy(field.file("assets/pi0_node/norm_stats.json"), second.join("norm_stats.json")).unwrap();
    assert!(field.refused().contains("name the data set with the parameter 'norm_stats_dataset'"));
    field.set("norm_stats_dataset: trossen/aloha");
    field.fits();
    field.set("norm_stats_dataset: trossen");
    let said = field.refused();
    assert!(said.contains("there is pi0_node, trossen/aloha"), "{said}");
}

const ALOHA: [&str; 7] =
    ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"];

fn relative(names: &[String]) -> Option<Value> {
    Some(json!({"enabled": true, "exclude_joints": ["gripper"], "action_names": names}))
}

#[test]
fn relative_actions_follow_from_the_checkpoint() {
    let plain = [
        ("observation.state.mean", [0.1; 14]),
        ("observation.state.std", [2.0; 14]),
        ("action.mean", [0.1; 14]),
        ("action.std", [2.0; 14]),
    ];
    let names = |sides: [&str; 2]| -> Vec<String> {
        sides.iter().flat_map(|side| ALOHA.map(|joint| format!("{side}_{joint}"))).collect()
    };
    let mut field = Field::new();
    field.processors(&plain, relative(&names(["left", "right"])));
    let said = field.fits();
    assert!(said.contains("by the checkpoint, 12 of 14 joints are differences from the state"), "{said}");
    let ran = pi0_node(&field.replay());
    let said = text(&ran.stderr);
    let expected = "note: by the checkpoint, the actions of 12 of 14 joints are differences from the state";
    assert!(ran.status.success() && said.contains(expected), "{said}");

    field.set("delta_actions: [6, -1, 6, -1]");
    field.fits();
    field.set("delta_actions: [14]");
    let expected = "delta_actions contradicts the checkpoint, which says that the actions of left_gripper are positions: leave \
                    delta_actions out (it would be [6, -1, 6, -1])";
    let said = field.refused();
    assert!(said.contains(expected), "{said}");
    let said = fails(&field.replay());
    assert!(said.contains(expected), "{said}");

    let field = Field::new();
    field.processors(&plain, relative(&names(["right", "left"])));
    let expected = "left_waist is the joint number 1, but was another one in training: the order there was right_waist, ";
    let said = field.refused();
    assert!(said.contains(expected), "{said}");
    // The arms would be exchanged.
    let said = fails(&field.replay());
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_joint_that_never_moved_is_named_with_its_factor() {
    let mut still = [2.0; 14];
    still[3] = 0.0;
    let field = Field::new();
    field.processors(
        &[
            ("observation.state.mean", [0.1; 14]),
            ("observation.state.std", still),
            ("action.mean", [0.1; 14]),
            ("action.std", still),
        ],
        None,
    );
    let expected = "joint 'left_forearm_roll' hardly moved in training: the statistics multiply what it is off by 1e8, so that \
                    0.01 reaches the model as 1e6";
    let said = field.fits();
    assert!(said.contains("warning  normalization") && said.contains(expected), "{said}");
    let said = text(&pi0_node(&field.replay()).stderr);
    assert!(said.contains(&format!("note: {expected}")), "{said}");
}

#[test]
fn without_a_configuration_what_does_not_follow_is_asked_for_and_everything_else_is_not() {
    let field = Field::new();
    let config: Value = serde_json::from_slice(&fs::read(field.file("config.json")).unwrap()).unwrap();
    fs::remove_file(field.file("config.json")).unwrap();
    let said = field.refused();
    let example = r#"{"architecture":{"vision":{"num_attention_heads":2},"vlm":{"head_dim":16}},"chunk_size":50,"num_inference_steps":10}"#;
    let expected = format!(
        "there is no config.json (openpi's PyTorch training writes none). The sizes follow from the weights, but not chunk_size \
         (points of a chunk), num_inference_steps (denoising steps), architecture.vision.num_attention_heads (attention heads of \
         the vision tower), architecture.vlm.head_dim (size of an attention head of the language model): write them into {}, such \
         as {example}",
        field.file("config.json").display()
    );
    assert!(said.contains(&expected), "{said}");
    // The example is right for this one: no other size is asked for, and the model is the same.
    fs::write(field.file("config.json"), example).unwrap();
    field.fits();
    let opened = || *pi0_node::policy::Checkpoint::open(&field.checkpoint()).unwrap().config();
    let from_weights = opened();
    fs::write(field.file("config.json"), config.to_string()).unwrap();
    assert_eq!(from_weights, opened());
}

#[test]
fn an_adapter_says_what_it_is_and_how_to_merge_it() {
    let field = Field::new();
    fs::rename(field.file("model.safetensors"), field.file("adapter_model.safetensors")).unwrap();
    let config = json!({"peft_type": "LORA", "base_model_name_or_path": "some/pi0", "r": 16});
    fs::write(field.file("adapter_config.json"), config.to_string()).unwrap();
    let said = field.refused();
    for expected in [
        "this is a LoRA adapter of rank 16, trained on some/pi0: it holds only what was changed, not the model. Merge it into its base",
        "PI0Policy.from_pretrained(\"some/pi0\")",
        "merge_and_unload()",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn folders_without_safetensors_say_what_they_are() {
    for (file, expected) in [
        ("params/manifest.ocdbt", "this is a checkpoint of JAX (Orbax): convert it with openpi's"),
        ("pytorch_model.bin", "but pytorch_model.bin: save the weights as safetensors"),
        ("pretrained_model/model.safetensors", "this is the folder of a training run: name "),
    ] {
        let field = Field::new();
        fs::remove_file(field.file("model.safetensors")).unwrap();
        fs::create_dir_all(field.file(file).parent().unwrap()).unwrap();
        fs::write(field.file(file), b"").unwrap();
        let said = field.refused();
        assert!(said.contains(expected), "{file}: {said}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_found_by_name_when_they_are_loaded() {
    for (part, bytes) in [
        ("action_time_mlp_in.weight", [0xff, 0xff]),
        ("action_out_proj.bias", [0x80, 0x7f]),
        ("lm_head.weight", [0x80, 0xff]),
        ("layers.1.self_attn.k_proj.weight", [0xc0, 0x7f]),
    ] {
        let field = Field::new();
        let mut key = String::new();
        field.weights(|mut tensors| {
            key = tensors.keys().find(|key| key.contains(part)).unwrap().clone();
            let (dtype, _, data) = tensors.get_mut(&key).unwrap();
            assert_eq!(*dtype, Dtype::BF16);
            data[6..8].copy_from_slice(&bytes);
            tensors
        });
        let said = field.refused();
        assert!(
            said.contains(&format!("error    weights                  '{key}': element 3 is ")),
            "{said}"
        );
        let said = fails(&field.replay());
        assert!(
            said.contains(&format!("weight '{key}': element 3 is "))
                && said.contains("a training run that diverged"),
            "{said}"
        );
    }
}
