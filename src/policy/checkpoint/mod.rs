//! A checkpoint folder: `config.json` and `safetensors` files, memory-mapped. Called by `control` and `cli`.
//!
//! Written by openpi or lerobot, in one file or in shards with an index, in f32, f16 or bf16. Opening one compares
//! every tensor with what the configuration needs and reports the differences with what may be behind them (`compare`); `names`
//! knows what wrappers put around names, `folder` what a folder without weights is, `sizes` what weights say by themselves.

mod compare;
mod folder;
pub mod init;
mod inspect;
mod names;
pub mod random;
mod sizes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};

pub use inspect::{ComponentSummary, Summary};

use self::folder::{SINGLE_FILE, tensor_files};
use self::names::{Meaning, meaning};
use super::config::PolicyConfig;
use super::description::{ConfigError, Description};
use super::keys::EMBEDDING;
use super::variant::Variant;
use crate::graph::{GraphError, Storage, WeightData, WeightError, WeightFormat, Weights};
use crate::json;
use crate::wording::Listing;

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
        let said = read_config(folder)?;
        // What this build cannot run is said before anybody looks for its weights.
        let described = match sizes::are_left_to_weights(&said) {
            true => None,
            false => Some(Description::from_json(folder, said.clone())?),
        };
        let files = tensor_files(folder)?;
        let tensors = read_tensors(folder, &files)?;
        let description = match described {
            Some(description) => description,
            None => Description::from_json(folder, sizes::complete(folder, &said, &tensors)?)?,
        };
        let config = description.config(Variant::of_tensors(|key| tensors.contains_key(key)))?;
        let checkpoint = Self { folder: folder.into(), config, tensors };
        let specs = super::weight_specs(&config)?;
        let problems = compare::differences(&specs, &checkpoint.tensors);
        if problems.is_empty() {
            Ok(checkpoint)
        } else {
            let guess = compare::guess(&specs, &checkpoint.tensors);
            Err(CheckpointError::Tensors { folder: folder.into(), problems, guess })
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// Every weight that has an infinity or no number among its elements, with which is the first. Reads the whole file.
    pub fn not_finite(&self) -> Vec<String> {
        let find = |(key, stored): (&String, &Stored)| {
            let owner = Arc::new(Mapped(stored.file.clone()));
            let data = WeightData::new(owner, stored.range.clone(), format_of(stored.dtype)?)?;
            let found = data.first_not_finite();
            data.release();
            Some(format!("'{key}': {}", found?))
        };
        self.tensors.iter().filter_map(find).collect()
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

/// `config.json` as it is, or null where there is none.
fn read_config(folder: &Path) -> Result<serde_json::Value, ConfigError> {
    let path = folder.join("config.json");
    let fail = |message: String| ConfigError { path: path.clone(), message };
    match fs::read_to_string(&path) {
        Ok(text) => json::parse(&text).map_err(fail),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(serde_json::Value::Null),
        Err(error) => Err(fail(error.to_string())),
    }
}

fn read_tensors(folder: &Path, files: &[PathBuf]) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for path in files {
        let file = match map(path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        match SafeTensors::deserialize(&file) {
            Ok(parsed) => {
                for (key, view) in parsed.iter() {
                    let Meaning::Weight(name) = meaning(key) else { continue };
                    let start = view.data().as_ptr().addr() - file.as_ptr().addr();
                    let range = start..start + view.data().len();
                    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                    let before = names.insert(name.clone(), key.to_owned());
                    // The language embedding has two names and is one.
                    if let Some(before) = before.filter(|before| before != key && name != EMBEDDING) {
                        problems.push(format!("'{before}' and '{key}' are both '{name}': which is meant?"));
                    }
                    tensors.insert(name, Stored { file: file.clone(), range, dtype, shape });
                }
            }
            Err(_) if file.starts_with(b"version https://git-lfs") => problems.push(format!(
                "{}: it is a Git LFS pointer, not the file itself: `git lfs pull` fetches that",
                path.display()
            )),
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
    Config(ConfigError),
    #[error("checkpoint {}: {}", .folder.display(), Listing(.problems, None))]
    Problems { folder: PathBuf, problems: Vec<String> },
    /// Tensors are not those of the configuration, and what may be behind that.
    #[error("checkpoint {}: {}", .folder.display(), Listing(.problems, .guess.as_deref()))]
    Tensors { folder: PathBuf, problems: Vec<String>, guess: Option<String> },
    #[error("the model does not fit together: {0}")]
    Graph(GraphError),
}

// Not sources: the messages say all of them, and a chain of sources would say it again.
impl From<ConfigError> for CheckpointError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<GraphError> for CheckpointError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl CheckpointError {
    fn problem(path: &Path, message: String) -> Self {
        Self::Problems { folder: path.into(), problems: vec![message] }
    }
}
