//! lerobot's processors: pipelines of steps, of which some keep statistics in a file of their own and one says which actions are
//! relative. Called by `stats`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;

use super::columns::{Sets, choose, collect};
use super::{Columns, Convention, Mode, NormalizationError, Statistics, read_json};
use crate::json;

pub(super) const PRE: &str = "policy_preprocessor.json";
const POST: &str = "policy_postprocessor.json";

/// Which actions a checkpoint says are relative to the state (lerobot's `relative_actions_processor`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RelativeStep {
    pub enabled: bool,
    /// Actions whose names have one of these in them are positions all the same.
    pub exclude_joints: Vec<String>,
    /// The names of the actions in training; without them every action is relative.
    pub action_names: Option<Vec<String>>,
    /// Which state each action is relative to, where that is not the one of its own number.
    pub state_action_index_map: Option<Vec<usize>>,
}

#[derive(Deserialize)]
struct Pipeline {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    registry_name: String,
    #[serde(default)]
    config: serde_json::Value,
    state_file: Option<String>,
}

#[derive(Deserialize)]
struct StepConfig {
    eps: f64,
    norm_map: BTreeMap<String, Mode>,
}

pub(super) fn load(folder: &Path, data_set: Option<&str>) -> Result<Statistics, NormalizationError> {
    let (pre, post) = (folder.join(PRE), folder.join(POST));
    let before: Pipeline = read_json(&pre)?;
    let relative = before.relative(&pre)?;
    let after: Pipeline = read_json(&post)?;
    let (file, config, state) =
        before.step(&pre, "normalizer_processor", ("observation.state", "state"), data_set)?;
    let (_, post_config, actions) =
        after.step(&post, "unnormalizer_processor", ("action", "actions"), data_set)?;
    let mode =
        |config: &StepConfig, feature: &str| config.norm_map.get(feature).copied().unwrap_or(Mode::Identity);
    Ok(Statistics {
        file,
        state,
        state_mode: mode(&config, "STATE"),
        actions,
        action_mode: mode(&post_config, "ACTION"),
        convention: Convention::Lerobot { epsilon: config.eps },
        relative,
        among_weights: false,
    })
}

impl Pipeline {
    fn relative(&self, file: &Path) -> Result<Option<RelativeStep>, NormalizationError> {
        let step = self.steps.iter().find(|step| step.registry_name == "relative_actions_processor");
        let parse = |step: &Step| json::typed(step.config.clone());
        step.map(parse).transpose().map_err(|error| NormalizationError::Unreadable {
            file: file.into(),
            message: format!("step 'relative_actions_processor': {error}"),
        })
    }

    /// The statistics of `feature` (its name there, its name for people) in the step `name` of this pipeline, which was
    /// read from `file`.
    fn step(
        self,
        file: &Path,
        name: &str,
        (feature, said): (&str, &'static str),
        data_set: Option<&str>,
    ) -> Result<(PathBuf, StepConfig, Columns), NormalizationError> {
        let fail = |message: String| NormalizationError::Unreadable { file: file.into(), message };
        let step = self
            .steps
            .into_iter()
            .find(|step| step.registry_name == name)
            .ok_or_else(|| fail(format!("no step '{name}'")))?;
        let config: StepConfig =
            json::typed(step.config).map_err(|error| fail(format!("step '{name}': {error}")))?;
        let tensors = step.state_file.ok_or_else(|| fail(format!("step '{name}' has no statistics")))?;
        // A state file lies beside its pipeline, never elsewhere.
        if Path::new(&tensors).file_name().is_none_or(|file| file != tensors.as_str()) {
            return Err(fail(format!("'{tensors}' is not the name of a file beside it")));
        }
        let tensors = file.with_file_name(tensors);
        let columns = choose(read_sets(&tensors, feature)?, data_set, &tensors, said)?;
        Ok((tensors, config, columns))
    }
}

/// The columns of `feature` in a safetensors file, by data set.
fn read_sets(file: &Path, feature: &str) -> Result<Sets, NormalizationError> {
    let fail = |message: String| NormalizationError::Unreadable { file: file.into(), message };
    let bytes = fs::read(file).map_err(|error| fail(error.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| fail(error.to_string()))?;
    let mut sets = Sets::new();
    collect(&tensors, feature, &mut sets);
    Ok(sets)
}
