//! Which files of a checkpoint's folder hold the weights, and what a folder without any is instead: an adapter, JAX's
//! parameters, a training run. Called when a checkpoint is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CheckpointError;
use crate::json;

pub(super) const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The safetensors files of a folder: those that the index names, or the single one.
pub(super) fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = folder.join(INDEX_FILE);
    if !index.exists() {
        let single = folder.join(SINGLE_FILE);
        return if single.exists() {
            Ok(vec![single])
        } else {
            Err(CheckpointError::problem(folder, what_it_is_instead(folder)))
        };
    }
    let fail = |message: String| CheckpointError::problem(&index, message);
    let text = fs::read_to_string(&index).map_err(|error| fail(error.to_string()))?;
    let parsed: Index = json::parse(&text).map_err(fail)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    // A shard is a file beside its index, never a path that leads elsewhere.
    match names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str())) {
        Some(name) => Err(fail(format!("'{name}' is not the name of a file beside the index"))),
        None => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

/// What a folder without weights is, and how to make a checkpoint of it.
fn what_it_is_instead(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).exists();
    let config = if has("config.json") { "" } else { "there is no config.json, and " };
    let none = format!("{config}neither {SINGLE_FILE} nor {INDEX_FILE} is there");
    if has("adapter_config.json") || has("adapter_model.safetensors") || has("adapter_model.bin") {
        return adapter(folder);
    }
    for inner in ["pretrained_model", "checkpoints/last/pretrained_model"] {
        if has(&format!("{inner}/{SINGLE_FILE}")) {
            return format!(
                "{none}; this is the folder of a training run: name {}",
                folder.join(inner).display()
            );
        }
    }
    if has("params/_METADATA") || has("params/manifest.ocdbt") || has("_CHECKPOINT_METADATA") || has("params")
    {
        return format!(
            "{none}; this is a checkpoint of JAX (Orbax): convert it with openpi's examples/convert_jax_model_to_pytorch.py"
        );
    }
    let pickled = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut pickled: Vec<String> = pickled.map(|name| name.to_string_lossy().into_owned()).collect();
    pickled.sort();
    let is_pickled = |name: &&String| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end));
    match pickled.iter().find(is_pickled) {
        Some(file) => {
            format!("{none}, but {file}: save the weights as safetensors (safetensors.torch.save_model)")
        }
        None => none,
    }
}

/// What a LoRA adapter is of, and how it becomes a checkpoint.
fn adapter(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let kind = config["peft_type"].as_str().unwrap_or("LORA");
    let kind = if kind.eq_ignore_ascii_case("lora") { "LoRA" } else { kind };
    let rank = config["r"].as_u64().map(|rank| format!(" of rank {rank}")).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    let of = base.map(|base| format!(", trained on {base}")).unwrap_or_default();
    format!(
        "this is a {kind} adapter{rank}{of}: it holds only what was changed, not the model. Merge it into its base and name the \
         folder that this gives: in Python, policy = PI0Policy.from_pretrained(\"{}\"); policy = \
         peft.PeftModel.from_pretrained(policy, \"{}\").merge_and_unload(); policy.save_pretrained(\"merged\")",
        base.unwrap_or("BASE"),
        folder.display()
    )
}
