//! Statistics among the tensors of a file: which are of which feature, and of which data set. Called by `lerobot` and `inside`.
//!
//! lerobot's base models, trained on several robots, have them under the names of data sets:
//! `so100.buffer.observation.state.mean` beside `observation.state.mean`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Columns, NormalizationError};

/// The columns of one feature by data set; those under no data set's name stand under `""`.
pub(super) type Sets = BTreeMap<String, Columns>;

/// The columns of `feature` in a file's tensors, to `sets`.
pub(super) fn collect(tensors: &SafeTensors, feature: &str, sets: &mut Sets) {
    for (key, view) in tensors.iter() {
        if let Some((set, column)) = split(key, feature)
            && let Some(values) = numbers(&view)
        {
            sets.entry(set.to_owned()).or_default().insert(column.to_owned(), values);
        }
    }
}

/// Data set and column of a key that is of `feature`.
fn split<'a>(key: &'a str, feature: &str) -> Option<(&'a str, &'a str)> {
    let (of, column) = key.rsplit_once('.')?;
    // Names of parts of a torch module have no dots.
    let front = of.strip_suffix(feature).or_else(|| of.strip_suffix(feature.replace('.', "_").as_str()))?;
    if !front.is_empty() && !front.ends_with(['.', '_']) {
        return None;
    }
    let set = front.trim_end_matches(['.', '_']);
    let set =
        set.strip_suffix("buffer").filter(|set| set.is_empty() || set.ends_with(['.', '_'])).unwrap_or(set);
    Some((set.trim_end_matches(['.', '_']), column))
}

/// The values; none for counts and the like.
fn numbers(view: &TensorView) -> Option<Vec<f64>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|&b| f64::from(f16::from_le_bytes(b))).collect(),
        Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|&b| f64::from(bf16::from_le_bytes(b))).collect(),
        _ => return None,
    })
}

/// The columns of the data set that is asked for, or of the only one there is.
pub(super) fn choose(
    mut sets: Sets,
    wanted: Option<&str>,
    file: &Path,
    feature: &'static str,
) -> Result<Columns, NormalizationError> {
    let file = || PathBuf::from(file);
    let names = |sets: &Sets| sets.keys().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>();
    match wanted {
        Some(name) => match sets.remove(name) {
            Some(columns) => Ok(columns),
            None => {
                let found = names(&sets);
                Err(NormalizationError::NoDataSet { file: file(), feature, wanted: name.to_owned(), found })
            }
        },
        None if sets.contains_key("") => Ok(sets.remove("").unwrap_or_default()),
        None if sets.len() <= 1 => Ok(sets.into_values().next().unwrap_or_default()),
        None => Err(NormalizationError::SeveralDataSets { file: file(), feature, found: names(&sets) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_data_set_and_column() {
        for (key, expected) in [
            ("observation.state.mean", Some(("", "mean"))),
            ("so100.buffer.observation.state.mean", Some(("so100", "mean"))),
            ("so100-blue.buffer.observation.state.q01", Some(("so100-blue", "q01"))),
            ("lab.v2.observation.state.std", Some(("lab.v2", "std"))),
            ("buffer_observation_state.std", Some(("", "std"))),
            ("so100-red_buffer_observation_state.std", Some(("so100-red", "std"))),
            ("so100.buffer_observation_state.std", Some(("so100", "std"))),
            ("observation.state_image.mean", None),
            ("myobservation.state.mean", None),
            ("action.mean", None),
        ] {
            assert_eq!(split(key, "observation.state"), expected, "{key}");
        }
    }
}
