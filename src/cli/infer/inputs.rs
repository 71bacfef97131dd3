//! Reads and checks the input file of `infer`: every problem is named, and all of them are reported at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::rtc;
use crate::graph::{DType, HostTensor, HostView};
use crate::policy::{
    Continuation, IMAGE_MASKS, NOISE, PREFIX_WEIGHTS, PREVIOUS_CHUNK, PolicyConfig, STATE, StateInput,
    TOKEN_MASK, TOKENS, image_input,
};
use crate::wording::{Listing, Shown};

/// The inputs of both graphs by name.
pub struct Inputs {
    tensors: BTreeMap<String, HostTensor>,
    cameras: usize,
    continuation: Continuation,
}

impl Inputs {
    pub fn load(path: &Path, config: &PolicyConfig, rtc: &rtc::RtcOptions) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{} is not a complete safetensors file", path.display()))?;
        Self::parse(&file, config, rtc).with_context(|| format!("inputs of {}", path.display()))
    }

    fn parse(file: &SafeTensors, config: &PolicyConfig, rtc: &rtc::RtcOptions) -> anyhow::Result<Self> {
        let names: Vec<&str> = file.iter().map(|(name, _)| name).collect();
        let cameras = names.iter().filter(|name| is_image(name)).count();
        let side = config.vision.image;
        let mut expected = vec![
            (IMAGE_MASKS.to_owned(), DType::Bool, vec![cameras.max(1)]),
            (TOKENS.into(), DType::I32, vec![config.prompt_tokens]),
            (TOKEN_MASK.into(), DType::Bool, vec![config.prompt_tokens]),
            (NOISE.into(), DType::F32, vec![config.action_horizon, config.action_dim]),
        ];
        // Where the state is in the tokens, a file may have it all the same: it is then no input of its own.
        if config.variant.state == StateInput::Token || names.contains(&STATE) {
            expected.push((STATE.into(), DType::F32, vec![config.state_dim]));
        }
        expected
            .extend((0..cameras.max(1)).map(|camera| (image_input(camera), DType::F32, vec![3, side, side])));

        let mut problems = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, dtype, shape) in &expected {
            match file.tensor(name).map_err(|_| format!("'{name}' {dtype} {shape:?} is missing")) {
                Ok(view) => match convert(name, &view, *dtype, shape) {
                    Ok(tensor) => drop(tensors.insert(name.clone(), tensor)),
                    Err(problem) => problems.push(problem),
                },
                Err(problem) => problems.push(problem),
            }
        }
        problems.extend(token_problem(tensors.get(TOKENS), config));
        let before = rtc.read(file, config).unwrap_or_else(|error| {
            problems.push(error.to_string());
            None
        });
        // The last, since there may be many: what the model takes tells more.
        for name in names {
            if name != PREVIOUS_CHUNK && expected.iter().all(|(known, ..)| known != name) {
                problems.push(format!("'{}' is not an input of this model", Shown(name)));
            }
        }
        let continuation = before.as_ref().map_or(Continuation::Free, |before| before.continuation);
        if let Some(rtc::Before { chunk, weights, .. }) = before {
            tensors.insert(PREVIOUS_CHUNK.to_owned(), chunk);
            tensors.insert(PREFIX_WEIGHTS.to_owned(), weights);
        }
        if !problems.is_empty() {
            let is_there = |name: &String| file.tensor(name).is_ok();
            let is_other = !expected.iter().any(|(name, ..)| is_there(name));
            let guess = is_other.then_some("another file is meant: it has none of the model's inputs");
            bail!("{}", Listing(&problems, guess));
        }
        Ok(Self { tensors, cameras, continuation })
    }

    /// What the chunk before has to do with the new one.
    pub fn continuation(&self) -> Continuation {
        self.continuation
    }

    pub fn cameras(&self) -> usize {
        self.cameras
    }

    pub fn get(&self, name: &str) -> anyhow::Result<HostView<'_>> {
        let tensor = self.tensors.get(name).with_context(|| format!("no input '{name}'"))?;
        Ok(tensor.view())
    }
}

fn is_image(name: &str) -> bool {
    name.strip_prefix("image_").is_some_and(|camera| camera.parse::<usize>().is_ok())
}

/// The tensor in host memory, if it is what the model expects.
fn convert(name: &str, view: &TensorView, dtype: DType, shape: &[usize]) -> Result<HostTensor, String> {
    let batched = [&[1], shape].concat();
    if view.shape() != shape && view.shape() != batched {
        return Err(format!("'{name}' is {:?}, but the model takes {shape:?}", view.shape()));
    }
    let data = view.data();
    match (dtype, view.dtype()) {
        (DType::F32, Dtype::F32) => {
            let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            match values.iter().position(|value| !value.is_finite()) {
                Some(index) => {
                    Err(format!("'{name}' element {index} is {}, not a finite number", values[index]))
                }
                None => Ok(HostTensor::F32(values)),
            }
        }
        (DType::I32, Dtype::I32) => {
            Ok(HostTensor::I32(data.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect()))
        }
        (DType::I32, Dtype::I64) => data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&b| i64::from_le_bytes(b))
            .map(|value| {
                i32::try_from(value).map_err(|_| format!("'{name}' holds {value}, which is no token"))
            })
            .collect::<Result<_, _>>()
            .map(HostTensor::I32),
        (DType::Bool, Dtype::BOOL) => Ok(HostTensor::Bool(data.iter().map(|&byte| byte != 0).collect())),
        (_, found) => Err(format!("'{name}' is stored as {found}, but the model takes {dtype}")),
    }
}

/// Tokens outside the vocabulary.
fn token_problem(tokens: Option<&HostTensor>, config: &PolicyConfig) -> Option<String> {
    let Some(HostTensor::I32(tokens)) = tokens else {
        return None;
    };
    let (index, token) = tokens
        .iter()
        .enumerate()
        .find(|(_, token)| !(0..config.vocabulary as i64).contains(&i64::from(**token)))?;
    Some(format!("'{TOKENS}' element {index} is {token}, outside the vocabulary of {}", config.vocabulary))
}
