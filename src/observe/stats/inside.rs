//! Statistics among the weights, as lerobot up to 0.3 saved them: its `Normalize` modules were parts of the model. Called by
//! `stats`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Deserialize;

use super::columns::{Sets, choose};
use super::{Convention, Mode, NormalizationError, Statistics, columns, read_json};

/// The modules, and the feature that each has statistics of.
const STATE: [&str; 1] = ["normalize_inputs."];
const ACTIONS: [&str; 2] = ["unnormalize_outputs.", "normalize_targets."];
/// Added to every divisor (lerobot's `policies/normalize.py`).
const EPSILON: f64 = 1e-8;

/// The statistics among a checkpoint's weights, if there are any.
pub(super) fn load(
    checkpoint: &Path,
    data_set: Option<&str>,
) -> Result<Option<Statistics>, NormalizationError> {
    let (mut state, mut actions) = (Sets::new(), Sets::new());
    let mut found = None;
    for path in weight_files(checkpoint) {
        let fail = |message: String| NormalizationError::Unreadable { file: path.clone(), message };
        let file = File::open(&path).map_err(|error| fail(error.to_string()))?;
        // SAFETY: the mapping is read-only; nobody may truncate a checkpoint's file while it is in use.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| fail(error.to_string()))?;
        // A damaged file is for the policy to complain about.
        let Ok(tensors) = SafeTensors::deserialize(&map) else { continue };
        for (modules, feature, sets) in
            [(&STATE[..], "observation.state", &mut state), (&ACTIONS, "action", &mut actions)]
        {
            // The first module that has any: what the actions were normalised by is the same twice.
            for module in modules {
                let of_module = under(&tensors, module, feature);
                if !of_module.is_empty() && sets.is_empty() {
                    *sets = of_module;
                    found = Some(path.clone());
                }
            }
        }
    }
    let Some(file) = found else { return Ok(None) };
    let mode = modes(checkpoint);
    let mode = |feature: &str| mode.get(feature).copied().unwrap_or(Mode::MeanStd);
    Ok(Some(Statistics {
        state: choose(state, data_set, &file, "state")?,
        state_mode: mode("STATE"),
        actions: choose(actions, data_set, &file, "actions")?,
        action_mode: mode("ACTION"),
        convention: Convention::Lerobot { epsilon: EPSILON },
        relative: None,
        among_weights: true,
        file,
    }))
}

/// The columns of `feature` in one module, by data set.
fn under(tensors: &SafeTensors, module: &str, feature: &str) -> Sets {
    let mut all = Sets::new();
    columns::collect(tensors, feature, &mut all);
    let module = module.trim_end_matches('.');
    let inside = |(set, columns): (String, _)| {
        // Wrappers may stand in front of the module, a data set behind it.
        let (front, set) = match set.split_once(module) {
            Some((front, set)) => (front, set.trim_start_matches(['.', '_']).to_owned()),
            None => return None,
        };
        (front.is_empty() || front.ends_with('.')).then_some((set, columns))
    };
    all.into_iter().filter_map(inside).collect()
}

/// Where a checkpoint's weights are; none where it has none, which is for the policy to complain about.
fn weight_files(checkpoint: &Path) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Result<Index, _> = read_json(&checkpoint.join("model.safetensors.index.json"));
    let names: BTreeSet<String> = match index {
        Ok(index) => index.weight_map.into_values().collect(),
        Err(_) => ["model.safetensors".to_owned()].into(),
    };
    let is_beside = |name: &String| Path::new(name).file_name().is_some_and(|file| file == name.as_str());
    names
        .into_iter()
        .filter(is_beside)
        .map(|name| checkpoint.join(name))
        .filter(|path| path.is_file())
        .collect()
}

/// What the configuration says about each kind of feature.
fn modes(checkpoint: &Path) -> BTreeMap<String, Mode> {
    #[derive(Default, Deserialize)]
    struct Config {
        #[serde(default)]
        normalization_mapping: BTreeMap<String, Mode>,
    }
    let text = fs::read_to_string(checkpoint.join("config.json")).unwrap_or_default();
    serde_json::from_str::<Config>(&text).unwrap_or_default().normalization_mapping
}
