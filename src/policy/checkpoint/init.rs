//! Writes a checkpoint with random weights, in exactly the layout of a trained one. Called by `cli checkpoint init`:
//! the demo, the tests and the benchmarks need weights of the right shape, not of the right value.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use half::bf16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::{Dtype, View};

use super::{CheckpointError, PolicyConfig, SINGLE_FILE};
use crate::graph::WeightFormat;
use crate::policy::keys::VISION;
use crate::policy::{WeightSpec, weight_specs};

/// Writes `config.json` and `model.safetensors`; the same seed gives the same bytes. `on_bytes` hears of every
/// tensor as it is written, with its size.
pub fn write_random(
    folder: &Path,
    config: &PolicyConfig,
    seed: u64,
    format: WeightFormat,
    on_bytes: &(dyn Fn(u64) + Sync),
) -> Result<(), CheckpointError> {
    let fail = |what: &Path, error: &dyn std::fmt::Display| CheckpointError::problem(what, error.to_string());
    fs::create_dir_all(folder).map_err(|error| fail(folder, &error))?;
    let config_path = folder.join("config.json");
    let config_text = format!("{:#}\n", config.to_json());
    fs::write(&config_path, config_text).map_err(|error| fail(&config_path, &error))?;

    let tensors = weight_specs(config)?.into_iter().enumerate().map(|(index, spec)| {
        // Each tensor has a stream of its own, so that none depends on the order of writing.
        let tensor = RandomTensor { seed: seed ^ ((index as u64) << 32), format, on_bytes, spec };
        (tensor.spec.key.clone(), tensor)
    });
    // The library writes a temporary file that takes the name when it is whole, readable by its owner only.
    let path = folder.join(SINGLE_FILE);
    safetensors::serialize_to_file(tensors, None, &path).map_err(|error| fail(&path, &error))?;
    fs::metadata(&config_path)
        .and_then(|config| fs::set_permissions(&path, config.permissions()))
        .map_err(|error| fail(&path, &error))
}

/// Bytes of the weights that [`write_random`] writes.
pub fn random_bytes(config: &PolicyConfig, format: WeightFormat) -> Result<u64, CheckpointError> {
    Ok(weight_specs(config)?.iter().map(|spec| (elements(spec) * format.bytes()) as u64).sum())
}

fn elements(spec: &WeightSpec) -> usize {
    spec.shape.iter().product()
}

/// A tensor that is drawn when it is written, so that a full-size checkpoint never stands in memory.
struct RandomTensor<'a> {
    spec: WeightSpec,
    seed: u64,
    format: WeightFormat,
    on_bytes: &'a (dyn Fn(u64) + Sync),
}

/// Mean and spread of a tensor's elements that keep activations near one through any depth.
pub(super) fn distribution(key: &str, shape: &[usize]) -> (f32, f32) {
    let fan_in = shape.iter().skip(1).product::<usize>() as f32;
    let norm = key.contains("norm") && key.ends_with(".weight");
    match shape.len() {
        // SigLIP's norms multiply by the weight, Gemma's by one plus the weight.
        1 if norm && key.starts_with(VISION) => (1.0, 0.1),
        1 => (0.0, 0.1),
        _ => (0.0, fan_in.powf(-0.5)),
    }
}

impl View for RandomTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.format {
            WeightFormat::F32 => Dtype::F32,
            WeightFormat::F16 => Dtype::F16,
            WeightFormat::BF16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (mean, spread) = distribution(&self.spec.key, &self.spec.shape);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut bytes = Vec::with_capacity(self.data_len());
        for _ in 0..elements(&self.spec) {
            let unit: f32 = StandardNormal.sample(&mut random);
            let value = mean + spread * unit;
            match self.format {
                WeightFormat::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                WeightFormat::F16 => bytes.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
                WeightFormat::BF16 => bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            }
        }
        (self.on_bytes)(bytes.len() as u64);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        elements(&self.spec) * self.format.bytes()
    }
}
