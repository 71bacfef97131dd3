//! Golden files (tests/golden): a small random model's weights, inputs, and what the reference implementation made of
//! them, value by value. Used by every test that compares with the reference.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pi0_node::graph::{HostTensor, WeightData, WeightError, WeightFormat, Weights};
use pi0_node::policy::{Continuation, PREFIX_WEIGHTS, PREVIOUS_CHUNK, PolicyConfig, Schedule};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The files in f32; each has a different combination of cameras, masks and head layouts.
pub const FILES: [&str; 6] = [
    "pi0_3cam_pad",
    "pi0_cam_absent_mid",
    "pi0_hd72_gqa",
    "pi0_bf16_f32ref",
    "pi05_3cam",
    "pi05_bf16_f32ref",
];

/// Those in which a chunk continues the one before.
pub const CONTINUED: [&str; 4] =
    ["pi0_rtc_linear", "pi0_rtc_exp_short", "pi05_rtc_linear", "pi05_rtc_trained"];

#[derive(Clone)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: HostTensor,
}

impl Tensor {
    /// The elements as numbers.
    pub fn numbers(&self) -> Vec<f64> {
        match &self.data {
            HostTensor::F32(values) => values.iter().map(|&value| f64::from(value)).collect(),
            HostTensor::I32(values) => values.iter().map(|&value| f64::from(value)).collect(),
            HostTensor::Bool(values) => values.iter().map(|&value| f64::from(u8::from(value))).collect(),
        }
    }
}

pub struct Golden {
    pub config: PolicyConfig,
    pub weights: BTreeMap<String, Tensor>,
    pub inputs: BTreeMap<String, Tensor>,
    pub outputs: BTreeMap<String, Tensor>,
}

impl Golden {
    pub fn load(name: &str) -> Self {
        let path = path(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let sizes: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap();
        let mut parts = [const { BTreeMap::new() }; 3];
        for (key, view) in file.iter() {
            let (part, name) = key.split_once('.').unwrap();
            let part = match part {
                "weights" => 0,
                "in" => 1,
                _ => 2,
            };
            parts[part].insert(name.to_owned(), tensor(view.dtype(), view.shape(), view.data()));
        }
        let [weights, inputs, outputs] = parts;
        let mut golden = Self { config: config(&sizes), weights, inputs, outputs };
        if let Some(rtc) = sizes.get("rtc") {
            golden.continue_chunk(rtc);
        }
        golden
    }

    /// The chunk's first `count` points are given.
    pub fn give_points(&mut self, count: usize) {
        self.config.continuation = Continuation::Given { most: count + 1 };
        let weights =
            (0..self.config.action_horizon).map(|point| f32::from(u8::from(point < count))).collect();
        self.inputs.get_mut(PREFIX_WEIGHTS).unwrap().data = HostTensor::F32(weights);
    }

    /// What lerobot does with the rest of the chunk before: it gets the size of a chunk, and weights.
    fn continue_chunk(&mut self, rtc: &Value) {
        let number = |key: &str| rtc[key].as_f64().unwrap();
        let (horizon, width) = (self.config.action_horizon, self.config.action_dim);
        self.config.continuation = match rtc.get("training_max_delay").and_then(Value::as_u64) {
            Some(most) => Continuation::Given { most: most as usize },
            None => Continuation::Guided { most: number("max_guidance_weight") },
        };
        let left = self.inputs.remove("previous_chunk").unwrap();
        let &[_, points, columns] = &left.shape[..] else { panic!("{:?}", left.shape) };
        let HostTensor::F32(values) = left.data else { panic!("the chunk is f32") };
        let mut chunk = vec![0.0; horizon * width];
        for (row, values) in chunk.chunks_exact_mut(width).zip(values.chunks_exact(columns)) {
            row[..columns].copy_from_slice(values);
        }
        let schedule = rtc["schedule"].as_str().unwrap().to_lowercase();
        let schedule = Schedule::named(&schedule).unwrap();
        let mut weights = vec![0.0; horizon];
        let until = (number("execution_horizon") as usize).min(points);
        schedule.write(number("inference_delay") as usize, until, &mut weights);
        for (name, shape, values) in
            [(PREVIOUS_CHUNK, vec![1, horizon, width], chunk), (PREFIX_WEIGHTS, vec![horizon, 1], weights)]
        {
            self.inputs.insert(name.to_owned(), Tensor { shape, data: HostTensor::F32(values) });
        }
    }
}

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.safetensors"))
}

fn tensor(dtype: Dtype, shape: &[usize], data: &[u8]) -> Tensor {
    let words = || data.as_chunks::<4>().0.iter();
    let data = match dtype {
        Dtype::F32 => HostTensor::F32(words().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
        Dtype::BF16 => {
            let widened =
                data.as_chunks::<2>().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32());
            HostTensor::F32(widened.collect())
        }
        Dtype::I32 => HostTensor::I32(words().map(|&bytes| i32::from_le_bytes(bytes)).collect()),
        Dtype::BOOL => HostTensor::Bool(data.iter().map(|&byte| byte != 0).collect()),
        other => panic!("golden files hold no {other}"),
    };
    Tensor { shape: shape.to_vec(), data }
}

fn config(sizes: &Value) -> PolicyConfig {
    let size =
        |key: &str| sizes[key].as_u64().unwrap_or_else(|| panic!("no '{key}' in the golden config")) as usize;
    let pi05 = sizes["pi05"].as_bool().unwrap_or(false);
    let mut config = if pi05 { PolicyConfig::PI05_TINY } else { PolicyConfig::TINY };
    config.vision.width = size("v_width");
    config.vision.layers = size("v_depth");
    config.vision.heads = size("v_heads");
    config.vision.mlp = size("v_mlp");
    config.vision.patch = size("patch");
    config.vision.image = size("image");
    config.vlm.width = size("width");
    config.vlm.layers = size("depth");
    config.vlm.mlp = size("mlp");
    config.vlm.heads = size("heads");
    config.vlm.kv_heads = size("kv_heads");
    config.vlm.head_dim = size("head_dim");
    config.expert = config.vlm;
    config.expert.width = size("e_width");
    config.expert.mlp = size("e_mlp");
    config.vocabulary = size("vocab");
    config.action_horizon = size("horizon");
    config.action_dim = size("action_dim");
    config.state_dim = size("action_dim");
    config.prompt_tokens = size("tok_len");
    config.denoising_steps = size("steps");
    config
}

impl Weights for Golden {
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError> {
        let error = |message: String| WeightError { key: key.into(), message };
        let tensor = self.weights.get(key).ok_or_else(|| error("is not in the golden file".into()))?;
        let HostTensor::F32(values) = &tensor.data else {
            return Err(error("is not f32".into()));
        };
        if tensor.shape != shape {
            return Err(error(format!("is {:?}, not {shape:?}", tensor.shape)));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let range = 0..bytes.len();
        WeightData::new(Arc::new(bytes), range, WeightFormat::F32)
            .ok_or_else(|| error("is no f32 tensor".into()))
    }
}
