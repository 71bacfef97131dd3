//! Normalisation statistics as openpi and lerobot store them: openpi's file, lerobot's processors (`lerobot`), or tensors among
//! the weights (`inside`). Called by `normalization`; `cli` writes trivial ones.

mod columns;
mod inside;
mod lerobot;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::json;

pub use lerobot::RelativeStep;

const OPENPI_FILE: &str = "norm_stats.json";

/// `mean`, `std`, `q01`, .. of one feature, each with a value per dimension.
pub(super) type Columns = BTreeMap<String, Vec<f64>>;

/// Which columns are used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Mode {
    #[serde(rename = "IDENTITY")]
    Identity,
    #[serde(rename = "MEAN_STD")]
    MeanStd,
    #[serde(rename = "QUANTILES")]
    Quantiles,
    #[serde(rename = "QUANTILE10")]
    InnerQuantiles,
    #[serde(rename = "MIN_MAX")]
    MinMax,
}

/// Whose formulas: they differ in where an epsilon keeps divisors above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Convention {
    Openpi,
    Lerobot { epsilon: f64 },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statistics {
    pub file: PathBuf,
    pub state: Columns,
    pub state_mode: Mode,
    pub actions: Columns,
    pub action_mode: Mode,
    pub convention: Convention,
    /// What the checkpoint says about actions that are relative to the state. openpi's does not say.
    pub relative: Option<RelativeStep>,
    /// Whether they stood among the weights, as lerobot up to 0.3 saved them.
    pub among_weights: bool,
}

/// Statistics at `path`: a `norm_stats.json`, or a folder that holds one (openpi: anywhere below `assets`), lerobot's
/// processors, or weights with statistics among them. Of several data sets' they are those of
/// `data_set`. Those of openpi do not say how they are used: by `quantiles`, or by mean and deviation.
pub(super) fn load(
    path: &Path,
    quantiles: bool,
    data_set: Option<&str>,
) -> Result<Statistics, NormalizationError> {
    let mode = if quantiles { Mode::Quantiles } else { Mode::MeanStd };
    let openpi = |file: &Path| openpi(file, mode);
    if path.is_file() {
        return openpi(path);
    }
    let direct = path.join(OPENPI_FILE);
    if direct.is_file() {
        return openpi(&direct);
    }
    if path.join(lerobot::PRE).is_file() {
        return lerobot::load(path, data_set);
    }
    let assets = path.join("assets");
    let found = files_below(&assets, 4);
    match (&found[..], data_set) {
        ([], _) => inside::load(path, data_set)?.ok_or_else(|| NormalizationError::Missing(path.into())),
        ([one], None) => openpi(one),
        (many, None) => Err(NormalizationError::Several(many.to_vec())),
        (many, Some(name)) => {
            let is_named = |file: &&PathBuf| file.parent().is_some_and(|folder| folder == assets.join(name));
            many.iter().find(is_named).map_or_else(
                || {
                    let names = many.iter().filter_map(|file| file.parent()?.strip_prefix(&assets).ok());
                    Err(NormalizationError::NoDataSet {
                        file: assets.clone(),
                        feature: "statistics",
                        wanted: name.to_owned(),
                        found: names.map(|name| name.display().to_string()).collect(),
                    })
                },
                |file| openpi(file),
            )
        }
    }
}

/// Every `norm_stats.json` at most `depth` folders down, in order.
fn files_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() && depth > 0 {
            found.extend(files_below(&path, depth - 1));
        } else if path.file_name().is_some_and(|name| name == OPENPI_FILE) {
            found.push(path);
        }
    }
    found
}

fn openpi(file: &Path, mode: Mode) -> Result<Statistics, NormalizationError> {
    #[derive(Deserialize)]
    struct File {
        norm_stats: Features,
    }
    #[derive(Deserialize)]
    struct Features {
        state: BTreeMap<String, Option<Vec<f64>>>,
        actions: BTreeMap<String, Option<Vec<f64>>>,
    }
    let parsed: File = read_json(file)?;
    let columns = |feature: BTreeMap<String, Option<Vec<f64>>>| {
        feature.into_iter().filter_map(|(name, values)| Some((name, values?))).collect()
    };
    Ok(Statistics {
        file: file.into(),
        state: columns(parsed.norm_stats.state),
        state_mode: mode,
        actions: columns(parsed.norm_stats.actions),
        action_mode: mode,
        convention: Convention::Openpi,
        relative: None,
        among_weights: false,
    })
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, NormalizationError> {
    let fail = |message: String| NormalizationError::Unreadable { file: file.into(), message };
    let text = fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    json::parse(&text).map_err(|error| {
        // Python writes what JSON does not have.
        let strange = ["NaN", "Infinity"].into_iter().find(|strange| text.contains(strange));
        fail(match strange {
            None => error,
            Some(strange) => format!(
                "it has '{strange}', which is no number of JSON's: compute the statistics anew ({error})"
            ),
        })
    })
}

impl Statistics {
    /// How many dimensions of the state come before the padding, whose deviation is 0. None where that cannot be told: deviations that
    /// are all the same were not measured.
    pub fn moving_dimensions(&self) -> Option<usize> {
        let deviations = self.state.get("std")?;
        let measured = deviations.iter().any(|deviation| *deviation != deviations[0]);
        let moving = deviations.iter().rposition(|deviation| *deviation != 0.0)? + 1;
        measured.then_some(moving)
    }

    /// A column with a value per joint, or per dimension of the model of which the first are the joints.
    pub fn column<'a>(
        &self,
        columns: &'a Columns,
        feature: &'static str,
        name: &str,
        joints: usize,
        dim: usize,
    ) -> Result<&'a [f64], NormalizationError> {
        let file = || self.file.clone();
        let values = columns.get(name).ok_or_else(|| NormalizationError::NoColumn {
            file: file(),
            feature,
            column: name.into(),
        })?;
        if values.len() != joints && values.len() != dim {
            return Err(NormalizationError::Length {
                file: file(),
                feature,
                column: name.into(),
                found: values.len(),
                joints,
                dim,
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let message = format!("{name} is {}", values[index]);
                Err(NormalizationError::Value { file: file(), feature, index, message })
            }
            None => Ok(values),
        }
    }
}

/// Writes plausible statistics in openpi's form, `assets/pi0_node/norm_stats.json`, for random checkpoints, whose
/// output means nothing: zero mean and unit standard deviation leave values nearly as they are.
pub fn write_identity_like_stats(folder: &Path, state_dim: usize, action_dim: usize) -> std::io::Result<()> {
    // The 1 % quantiles of a standard normal.
    const TAIL: f64 = 2.326;
    let feature = |dim: usize| json!({"mean": vec![0.0; dim], "std": vec![1.0; dim], "q01": vec![-TAIL; dim], "q99": vec![TAIL; dim]});
    let stats = json!({"norm_stats": {"state": feature(state_dim), "actions": feature(action_dim)}});
    let folder = folder.join("assets/pi0_node");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(OPENPI_FILE), format!("{stats:#}\n"))
}

/// Statistics that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NormalizationError {
    #[error(
        "{} has no normalisation statistics (assets/*/norm_stats.json or policy_preprocessor.json); name a file with \
         the parameter 'norm_stats', or set 'normalization: none' if the model was trained on raw values",
        .0.display()
    )]
    Missing(PathBuf),
    #[error(
        "there are several normalisation statistics: {}; name the data set with the parameter 'norm_stats_dataset' (the \
         folder below assets), or a file with 'norm_stats'",
        .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Several(Vec<PathBuf>),
    #[error(
        "{}: the statistics are of several data sets: {}; choose one with the parameter 'norm_stats_dataset'",
        .file.display(), .found.join(", ")
    )]
    SeveralDataSets { file: PathBuf, feature: &'static str, found: Vec<String> },
    #[error(
        "{}: there is no {feature} of the data set '{wanted}' (the parameter 'norm_stats_dataset'); there is {}",
        .file.display(), if .found.is_empty() { "none under a data set's name".to_owned() } else { .found.join(", ") }
    )]
    NoDataSet { file: PathBuf, feature: &'static str, wanted: String, found: Vec<String> },
    #[error("{}: {message}", .file.display())]
    Unreadable { file: PathBuf, message: String },
    #[error(
        "{}: {feature} has no '{column}', which this model is normalised by; take the statistics that it was trained with, or \
         compute them anew (openpi's scripts/compute_norm_stats.py, lerobot's augment_dataset_quantile_stats.py)",
        .file.display()
    )]
    NoColumn { file: PathBuf, feature: &'static str, column: String },
    #[error("{}: {column} of {feature} has {found} values; expected {joints} (joints) or {dim} (the model's)", .file.display())]
    Length { file: PathBuf, feature: &'static str, column: String, found: usize, joints: usize, dim: usize },
    #[error("{}: {feature}, dimension {index}: {message}", .file.display())]
    Value { file: PathBuf, feature: &'static str, index: usize, message: String },
    #[error("{joints} joints are configured, but the model's {what} have room for {dim}")]
    TooManyJoints { joints: usize, what: &'static str, dim: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Normalizer, Trained};
    use crate::settings::Normalization;

    const TRAINED: Trained = Trained { state_dim: 4, action_dim: 4, quantiles: false };

    fn refused(text: &str, joints: usize) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("norm_stats.json");
        fs::write(&file, text).unwrap();
        Normalizer::load(folder.path(), &Normalization::File(file), joints, TRAINED).unwrap_err().to_string()
    }

    #[test]
    fn wrong_statistics_say_what_is_wrong() {
        let stats = |state: serde_json::Value| {
            json!({"norm_stats": {"state": state, "actions": {"mean": [0.0, 0.0], "std": [1.0, 1.0]}}})
                .to_string()
        };
        let error = refused(&stats(json!({"mean": [0.0], "std": [1.0]})), 2);
        assert!(
            error.contains("mean of state has 1 values; expected 2 (joints) or 4 (the model's)"),
            "{error}"
        );
        let error = refused(&stats(json!({"mean": [0.0, 0.0]})), 2);
        assert!(error.contains("state has no 'std'"), "{error}");
        let error = refused(&stats(json!({"mean": [0.0, 0.0], "std": [1.0, -1.0]})), 2);
        assert!(error.contains("state, dimension 1: std is -1, below 0"), "{error}");
        let error = refused(&stats(json!({"mean": [0.0, "0.1"], "std": [1.0, 1.0]})), 2);
        assert!(
            error.contains("norm_stats.json: 'norm_stats.state.mean[1]': invalid type: string"),
            "{error}"
        );
        let error = refused("[0.0, 1.0]", 2);
        assert!(error.contains("norm_stats.json: it is a list, but must be an object"), "{error}");
        assert!(refused("{\"norm_stats\": {\"state\": {}", 2).contains("norm_stats.json: EOF"), "a cut file");
    }

    #[test]
    fn openpis_folder_is_found_below_assets_unless_there_are_two() {
        let folder = tempfile::tempdir().unwrap();
        write_identity_like_stats(folder.path(), 4, 2).unwrap();
        let load = || Normalizer::load(folder.path(), &Normalization::Checkpoint, 2, TRAINED);
        assert_eq!(load().unwrap().joints(), 2);
        let second = folder.path().join("assets/lerobot/aloha");
        fs::create_dir_all(&second).unwrap();
        fs::copy(folder.path().join("assets/pi0_node/norm_stats.json"), second.join("norm_stats.json"))
            .unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains("lerobot/aloha") && error.contains("norm_stats'"), "{error}");
    }
}
