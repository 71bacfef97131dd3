//! Writes the output file of `infer`.

use std::collections::HashMap;
use std::path::{self, Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::files;
use crate::graph::HostTensor;
use crate::policy::PolicyConfig;
use crate::policy::intermediates::in_golden_layout;

/// One tensor of the output file.
pub struct Output {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: HostTensor,
}

impl Output {
    /// Brings the tensor into the layout of the golden files, which is the reference implementation's.
    pub fn make_golden(&mut self, config: &PolicyConfig) {
        match &mut self.data {
            HostTensor::F32(data) => {
                (self.shape, *data) = in_golden_layout(config, &self.name, &self.shape, std::mem::take(data));
            }
            HostTensor::I32(_) | HostTensor::Bool(_) => self.shape.insert(0, 1),
        }
    }

    fn bytes(&self) -> (Dtype, Vec<u8>) {
        match &self.data {
            HostTensor::F32(data) => {
                (Dtype::F32, data.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            HostTensor::I32(data) => {
                (Dtype::I32, data.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            HostTensor::Bool(data) => (Dtype::BOOL, data.iter().map(|&value| u8::from(value)).collect()),
        }
    }
}

/// Removes what an earlier run has left at `output`, lest it pass for this run's result, and finds out whether it can be written. A slip
/// of the keyboard must not cost what this run reads.
pub fn make_room(output: &Path, inputs: &Path, checkpoint: &Path) -> anyhow::Result<()> {
    // What is not there is in nobody's way.
    let real = |path: &Path| path.canonicalize().ok();
    let same = |a: Option<PathBuf>, b: Option<PathBuf>| a.is_some() && a == b;
    if same(real(output), real(inputs)) {
        bail!("--output {} is the file with the inputs; choose another one", output.display());
    }
    let absolute = path::absolute(output).with_context(|| format!("cannot write {}", output.display()))?;
    if same(absolute.parent().and_then(real), real(checkpoint)) {
        bail!("--output {} lies in the checkpoint folder; choose another place", output.display());
    }
    // A device has no room to be made, and removed it would be gone for everybody.
    if fs::metadata(output).is_ok_and(|there| !there.is_file()) {
        bail!("--output {} is no ordinary file; choose another name", output.display());
    }
    match fs::remove_file(output) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write {}", output.display()))
        }
        _ => files::try_file(output),
    }
}

/// Writes all or nothing: into a neighbouring file first, which then takes the name.
pub fn save(path: &Path, outputs: &[Output], device: &str) -> anyhow::Result<()> {
    let bytes: Vec<(Dtype, Vec<u8>)> = outputs.iter().map(Output::bytes).collect();
    let views = outputs
        .iter()
        .zip(&bytes)
        .map(|(output, (dtype, bytes))| {
            Ok((output.name.as_str(), TensorView::new(*dtype, output.shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let metadata = HashMap::from([
        ("device".to_owned(), device.to_owned()),
        ("made_by".to_owned(), format!("pi0_node {}", env!("CARGO_PKG_VERSION"))),
    ]);
    let file = safetensors::serialize(views, Some(metadata))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let written = fs::write(&temporary, file).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing to add if there is no such file.
        let _ = fs::remove_file(&temporary);
    }
    Ok(written?)
}
