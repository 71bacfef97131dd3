//! Checkpoint folders as openpi and lerobot write them, and folders that cannot be used.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/program.rs"]
mod program;
#[path = "support/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use golden::Golden;
use half::{bf16, f16};
use pi0_node::graph::{HostTensor, WeightFormat, Weights};
use pi0_node::policy::{Checkpoint, weight_specs};
use program::{fails, succeeds};
use safetensors::Dtype;
use serde_json::json;
use stored::{Tensors, stored_as, write};

const EMBEDDING: &str = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
const HEAD: &str = "paligemma_with_expert.paligemma.lm_head.weight";

fn tensors(golden: &Golden, format: Dtype) -> Tensors {
    golden.weights.iter().map(|(key, tensor)| (key.clone(), stored_as(tensor, format))).collect()
}

/// A folder with the golden model's configuration.
fn folder(golden: &Golden) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), golden.config.to_json().to_string()).unwrap();
    folder
}

fn refused(folder: &Path) -> String {
    Checkpoint::open(folder).err().expect("the folder cannot be used").to_string()
}

/// Every weight of the folder is the golden one, rounded to `format`.
fn assert_same_weights(folder: &Path, golden: &Golden, format: WeightFormat) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    for spec in weight_specs(checkpoint.config()).unwrap() {
        let weight = checkpoint.weight(&spec.key, &spec.shape).unwrap();
        assert_eq!(weight.format(), format);
        let mut found = vec![0.0; weight.elements()];
        weight.copy_f32(0, &mut found);
        let key = if spec.key == EMBEDDING { HEAD } else { &spec.key };
        let expected = golden.weights.get(key).or_else(|| golden.weights.get(EMBEDDING)).unwrap();
        let round = |value: f32| match format {
            WeightFormat::F32 => value,
            WeightFormat::F16 => f16::from_f32(value).to_f32(),
            WeightFormat::BF16 => bf16::from_f32(value).to_f32(),
        };
        let HostTensor::F32(expected) = &expected.data else { panic!("weights are f32") };
        assert!(found.iter().zip(expected).all(|(&a, &b)| a == round(b)), "{}", spec.key);
    }
}

#[test]
fn openpis_layout_is_read_in_every_format() {
    let golden = Golden::load("pi0_hd72_gqa");
    for (dtype, format) in
        [(Dtype::F32, WeightFormat::F32), (Dtype::F16, WeightFormat::F16), (Dtype::BF16, WeightFormat::BF16)]
    {
        let folder = folder(&golden);
        write(&folder.path().join("model.safetensors"), &tensors(&golden, dtype));
        assert_same_weights(folder.path(), &golden, format);
    }
}

#[test]
fn lerobots_layout_is_read_with_its_prefix_and_both_names_of_the_embedding() {
    let golden = Golden::load("pi0_hd72_gqa");
    let mut tensors: Tensors = tensors(&golden, Dtype::F32)
        .into_iter()
        .map(|(key, tensor)| (format!("model.{key}"), tensor))
        .collect();
    let head = tensors[&format!("model.{HEAD}")].clone();
    tensors.insert(format!("model.{EMBEDDING}"), head.clone());
    // The expert's output head is stored but never used.
    tensors.insert("model.paligemma_with_expert.gemma_expert.lm_head.weight".into(), head);
    let folder = folder(&golden);
    write(&folder.path().join("model.safetensors"), &tensors);
    assert_same_weights(folder.path(), &golden, WeightFormat::F32);
}

/// Splits the golden weights over two files with an index.
fn shards(golden: &Golden, folder: &Path) {
    let mut parts = [Tensors::new(), Tensors::new()];
    let mut map = BTreeMap::new();
    for (index, (key, tensor)) in tensors(golden, Dtype::BF16).into_iter().enumerate() {
        map.insert(key.clone(), format!("model-{}.safetensors", index % 2));
        parts[index % 2].insert(key, tensor);
    }
    for (index, part) in parts.iter().enumerate() {
        write(&folder.join(format!("model-{index}.safetensors")), part);
    }
    let index = json!({"metadata": {}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_with_an_index_are_one_checkpoint() {
    let golden = Golden::load("pi0_hd72_gqa");
    let folder = folder(&golden);
    shards(&golden, folder.path());
    assert_same_weights(folder.path(), &golden, WeightFormat::BF16);

    fs::remove_file(folder.path().join("model-1.safetensors")).unwrap();
    assert!(refused(folder.path()).contains("model-1.safetensors"));
}

#[test]
fn an_index_may_not_lead_out_of_its_folder() {
    let golden = Golden::load("pi0_hd72_gqa");
    let folder = folder(&golden);
    let index = json!({"weight_map": {"action_in_proj.weight": "../secret.safetensors"}});
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(
        refused(folder.path()).contains("'../secret.safetensors' is not the name of a file beside the index")
    );
}

#[test]
fn every_difference_is_listed_at_once() {
    let golden = Golden::load("pi0_hd72_gqa");
    let folder = folder(&golden);
    let mut tensors = tensors(&golden, Dtype::F32);
    tensors.remove("state_proj.bias");
    tensors.get_mut("action_in_proj.bias").unwrap().1 = vec![4, 8];
    let (_, shape, bytes) = tensors["action_out_proj.bias"].clone();
    tensors.insert("action_out_proj.bias".into(), (Dtype::I32, shape, bytes));
    tensors.insert("time_mlp_in.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
    write(&folder.path().join("model.safetensors"), &tensors);
    let message = refused(folder.path());
    for expected in [
        "4 problems",
        "'state_proj.bias' [32] is missing",
        "'action_in_proj.bias' is [4, 8], but config.json asks for [32]",
        "'action_out_proj.bias' is stored as I32, not F32, F16 or BF16",
        "'time_mlp_in.bias' is not part of the model",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let golden = Golden::load("pi0_hd72_gqa");
    let folder = folder(&golden);
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors(&golden, Dtype::F32));
    let bytes = fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 9, 1000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = refused(folder.path());
        assert!(message.contains("model.safetensors"), "cut at {length}: {message}");
    }
}

#[test]
fn a_folder_that_is_no_checkpoint_says_what_is_missing() {
    let golden = Golden::load("pi0_hd72_gqa");
    let folder = folder(&golden);
    assert!(refused(&folder.path().join("none")).contains("there is no such folder"));
    assert!(
        refused(folder.path())
            .contains("neither model.safetensors nor model.safetensors.index.json is there")
    );

    let config = folder.path().join("config.json");
    for (text, expected) in [
        ("{", "config.json"),
        ("[1, 2]", "config.json: it is a list"),
        ("{\"type\": \"smolvla\"}", "smolvla"),
    ] {
        fs::write(&config, text).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(expected), "{message}");
    }
    fs::remove_file(&config).unwrap();
    assert!(refused(folder.path()).contains("config.json"));
}

/// A random checkpoint in a new folder of `parent`, by the program.
fn init(parent: &Path, name: &str, seed: &str, more: &[&str]) -> PathBuf {
    let folder = parent.join(name);
    let arguments = ["checkpoint", "init", "--preset", "tiny", "--seed", seed, folder.to_str().unwrap()];
    let said = succeeds(&[&arguments[..], more].concat());
    assert!(said.contains("random checkpoint written to"), "{said}");
    folder
}

/// Names and bytes of all files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn init_writes_the_same_bytes_for_the_same_seed_and_never_over_a_checkpoint() {
    let parent = tempfile::tempdir().unwrap();
    let first = init(parent.path(), "first", "7", &[]);
    let files_of_first = files(&first);
    assert_eq!(files(&init(parent.path(), "second", "7", &[])), files_of_first);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(files_of_first.contains_key(Path::new(name)), "{name}");
    }
    assert!(files_of_first.keys().any(|path| path.ends_with("norm_stats.json")));

    let others = files(&init(parent.path(), "other", "8", &[]));
    let different = |path: &&PathBuf| others[*path] != files_of_first[*path];
    let different: Vec<_> = files_of_first.keys().filter(different).collect();
    assert_eq!(different, [Path::new("model.safetensors")]);

    let arguments = ["checkpoint", "init", "--preset", "tiny", "--seed", "8", first.to_str().unwrap()];
    let message = fails(&arguments);
    assert!(message.contains("first holds a checkpoint already"), "{message}");
    assert_eq!(files(&first), files_of_first);
}

#[test]
fn inspect_shows_configuration_tensors_parameters_and_formats() {
    let parent = tempfile::tempdir().unwrap();
    for (format, stored_as) in [("bf16", "BF16"), ("f32", "F32")] {
        let folder = init(parent.path(), format, "1", &["--dtype", format]);
        let shown = succeeds(&["checkpoint", "inspect", folder.to_str().unwrap()]);
        let specs = weight_specs(Checkpoint::open(&folder).unwrap().config()).unwrap();
        let parameters: usize = specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        for line in [
            "pi0: horizon 50, actions 32, state 32".to_owned(),
            "vision: 2 layers, width 64, 2 heads, mlp 136, image 56x56, patch 14".to_owned(),
            "language model: 2 layers, width 64, 4 heads (1 kv) of 16, mlp 128".to_owned(),
            // 320 tokens of width 64.
            format!("language embedding                         1          20 480  {stored_as}"),
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
        }
        // The components' rows add up to the whole.
        let (_, table) = shown.split_once("stored as\n").unwrap();
        let rows: Vec<(usize, usize)> = table.lines().map(counts).collect();
        let (total, components) = rows.split_last().unwrap();
        assert_eq!(*total, (specs.len(), parameters), "{shown}");
        assert_eq!(components.len(), 6, "{shown}");
        let sum = components.iter().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
        assert_eq!(sum, *total, "{shown}");
    }
    let message = fails(&["checkpoint", "inspect", parent.path().to_str().unwrap()]);
    assert!(message.contains("config.json"), "{message}");
}

/// Tensors and parameters in a row of `inspect`'s table, whose columns have fixed places.
fn counts(row: &str) -> (usize, usize) {
    let number = |columns: &str| columns.replace(' ', "").parse().unwrap();
    (number(&row[36..44]), number(&row[44..60]))
}
