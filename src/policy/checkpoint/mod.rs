//! A checkpoint folder: `config.json` and `safetensors` files, memory-mapped. Called by `control` and `cli`.
//!
//! Written by openpi or lerobot, in one file or in shards with an index, in f32, f16 or bf16. Opening one compares
//! every tensor with what the configuration needs and reports all differences at once.

pub mod init;
mod inspect;
pub mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};

pub use inspect::{ComponentSummary, Summary};

use super::config::{ConfigError, Description, PolicyConfig};
use super::keys::{EMBEDDING, EMBEDDING_ALIAS, EXPERT_HEAD};
use super::variant::Variant;
use crate::graph::{GraphError, Storage, WeightData, WeightError, WeightFormat, Weights};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A checkpoint whose tensors are those its configuration needs.
pub struct Checkpoint {
    folder: PathBuf,
    config: PolicyConfig,
    tensors: BTreeMap<String, Stored>,
}

/// One tensor inside a mapped file.
#[derive(Clone)]
struct Stored {
    file: Arc<Mmap>,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// Opens a folder, or says everything that is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::problem(
                folder,
                "there is no such folder; name a checkpoint folder with config.json and model.safetensors"
                    .into(),
            ));
        }
        let description = Description::load(folder)?;
        let tensors = read_tensors(folder)?;
        let config = description.config(Variant::of_tensors(|key| tensors.contains_key(key)))?;
        let checkpoint = Self { folder: folder.into(), config, tensors };
        let problems = checkpoint.problems()?;
        if problems.is_empty() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Problems { folder: folder.into(), problems })
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// Every missing, unexpected and wrongly stored tensor.
    fn problems(&self) -> Result<Vec<String>, CheckpointError> {
        let mut problems = Vec::new();
        let mut expected = BTreeSet::new();
        for spec in super::weight_specs(&self.config)? {
            match self.tensors.get(&spec.key) {
                None => problems.push(format!("'{}' {:?} is missing", spec.key, spec.shape)),
                Some(stored) if stored.shape != spec.shape => problems.push(format!(
                    "'{}' is {:?}, but config.json asks for {:?}",
                    spec.key, stored.shape, spec.shape
                )),
                Some(stored) if format_of(stored.dtype).is_none() => {
                    problems
                        .push(format!("'{}' is stored as {}, not F32, F16 or BF16", spec.key, stored.dtype));
                }
                Some(_) => {}
            }
            expected.insert(spec.key);
        }
        for key in self.tensors.keys().filter(|key| !expected.contains(*key)) {
            problems.push(format!("'{key}' is not part of the model that config.json describes"));
        }
        Ok(problems)
    }
}

impl Weights for Checkpoint {
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError> {
        let error = |message: &str| WeightError { key: key.into(), message: message.into() };
        let stored = self.tensors.get(key).ok_or_else(|| error("is not in the checkpoint"))?;
        if stored.shape != shape {
            return Err(error(&format!("is {:?} in the checkpoint, not {shape:?}", stored.shape)));
        }
        let format =
            format_of(stored.dtype).ok_or_else(|| error(&format!("is stored as {}", stored.dtype)))?;
        let owner = Arc::new(Mapped(stored.file.clone()));
        WeightData::new(owner, stored.range.clone(), format).ok_or_else(|| error("lies outside its file"))
    }
}

/// A mapped file as storage of weights.
struct Mapped(Arc<Mmap>);

impl Storage for Mapped {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, range: Range<usize>) {
        // SAFETY: the mapping is of a file and read-only, so pages that are given back come again as they were.
        let given_back =
            unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        // Without it the pages stay in memory for longer, which is no harm.
        if let Err(error) = given_back {
            tracing::debug!("pages of the checkpoint stay in memory: {error}");
        }
    }
}

fn format_of(dtype: Dtype) -> Option<WeightFormat> {
    match dtype {
        Dtype::F32 => Some(WeightFormat::F32),
        Dtype::F16 => Some(WeightFormat::F16),
        Dtype::BF16 => Some(WeightFormat::BF16),
        _ => None,
    }
}

fn read_tensors(folder: &Path) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let mut tensors = BTreeMap::new();
    let mut problems = Vec::new();
    for path in tensor_files(folder)? {
        let file = match map(&path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        match SafeTensors::deserialize(&file) {
            Ok(parsed) => {
                for (key, view) in parsed.iter() {
                    let Some(key) = canonical(key) else { continue };
                    let start = view.data().as_ptr().addr() - file.as_ptr().addr();
                    let range = start..start + view.data().len();
                    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                    tensors.insert(key, Stored { file: file.clone(), range, dtype, shape });
                }
            }
            Err(error) => problems.push(format!(
                "{}: not a complete safetensors file ({} bytes): {error}; copy or download it again",
                path.display(),
                file.len()
            )),
        }
    }
    if problems.is_empty() {
        Ok(tensors)
    } else {
        Err(CheckpointError::Problems { folder: folder.into(), problems })
    }
}

/// The name by which the graphs know a tensor, whatever its writer called it; `None` for what nobody has a use for.
fn canonical(key: &str) -> Option<String> {
    match key.strip_prefix("model.").unwrap_or(key) {
        EXPERT_HEAD => None,
        EMBEDDING_ALIAS => Some(EMBEDDING.into()),
        key => Some(key.into()),
    }
}

/// The safetensors files of a folder: those that the index names, or the single one.
fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
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
            let message = format!("neither {SINGLE_FILE} nor {INDEX_FILE} is there");
            Err(CheckpointError::problem(folder, message))
        };
    }
    let fail = |message: String| CheckpointError::problem(&index, message);
    let text = fs::read_to_string(&index).map_err(|error| fail(error.to_string()))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    // A shard is a file beside its index, never a path that leads elsewhere.
    match names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str())) {
        Some(name) => Err(fail(format!("'{name}' is not the name of a file beside the index"))),
        None => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is read-only; as with every mapped checkpoint, nobody may truncate the file while it is
    // in use, which the README says.
    unsafe { Mmap::map(&file) }
}

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint {0}")]
    Config(#[from] ConfigError),
    #[error("checkpoint {}: {}", .folder.display(), Listing(.problems))]
    Problems { folder: PathBuf, problems: Vec<String> },
    #[error("the model does not fit together: {0}")]
    Graph(#[from] GraphError),
}

impl CheckpointError {
    fn problem(path: &Path, message: String) -> Self {
        Self::Problems { folder: path.into(), problems: vec![message] }
    }
}

/// One problem on the same line, several on lines of their own.
struct Listing<'a>(&'a [String]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} problems", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
