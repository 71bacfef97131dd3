//! A pi0 checkpoint made by hand whose actions are known: "stay where you are, and from point `step_at` on be `delta` from
//! there". Used by the test of the closed loop.
//!
//! All weights are zero but a few, which turn the network into formulas that hold whatever the noise, the images and the
//! prompt are:
//!
//! - **Any noise ends at the target.** The flow is x <- x - v / N over N Euler steps. With v = N (x - a) the first step ends
//!   at x = a, and there v = 0. So v must be linear in x, in a network with norms and a SiLU.
//! - **The SiLU** is x + 30 -> x + 30 to f32's precision, so `action_time_mlp_in` adds 30 and `action_time_mlp_out` takes it
//!   away again.
//! - **The norms** divide a token by the root mean square of its channels. One channel has the constant C, far larger than
//!   everything else, so every token is divided by C / sqrt(width), to C^-2 relative. In v everything, the constant's
//!   channel included, is divided by the very same number, which therefore only scales v: x still ends at a.
//! - **The state** is another token, so only attention brings it to the actions. Its constant is in a channel of its own,
//!   which makes its key one that no other token has. Head 0 asks for that key with the slowest rotary frequency and a score
//!   of 40: all of its attention is on the state. Its values are the state's, and go to free channels of the action token.
//! - **Point i differs from point i + 1** by its rotary position alone. Head 1 asks for the same key with a fast frequency w:
//!   its score is A sin(w (i - step_at + 1/2)), so that it attends to the state's constant 1 from `step_at` on and before that
//!   to all other tokens, which have 0 there.
//!
//! With s the normalised state, a_i = gain s + offset + (i >= step_at ? step : 0), where gain, offset and step say in
//! normalised units what is wanted in radians; see [`Column`].

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pi0_node::observe::{JointConversion, JointUnits, write_small_tokenizer};
use pi0_node::policy::{PolicyConfig, weight_specs};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

const CONFIG: PolicyConfig = PolicyConfig::TINY;
pub const HORIZON: usize = CONFIG.action_horizon;
const WIDTH: usize = CONFIG.expert.width;
const HEAD: usize = CONFIG.expert.head_dim;
pub const JOINTS: usize = 14;

/// Channels of a token: x or the state, the attended state, the attended step, and the two constants.
const COPIED: usize = JOINTS;
const STEP: usize = 2 * JOINTS;
const ACTION_CONSTANT: usize = 30;
const STATE_CONSTANT: usize = 31;
const C: f32 = 1e4;
const LINEAR: f32 = 30.0;
/// Value of head dimension `ONE` is 1 for the state token and 0 for all others.
const ONE: usize = JOINTS;
/// Rotary frequencies, of HEAD / 2: angles per position of 3e-4 and 0.03.
const SLOW: usize = 7;
const FAST: usize = 3;
/// openpi's epsilon beside a standard deviation.
const EPSILON: f64 = 1e-6;

/// What the policy is to answer.
pub struct Known {
    /// Where the joints go, from where they are, in the model's units.
    pub delta: [f64; JOINTS],
    /// The first point that has it.
    pub step_at: usize,
    /// Which actions the node adds the state to (its parameter `delta_actions`).
    pub masked: [bool; JOINTS],
}

/// A joint's statistics, all different, so that no joint can stand in for another.
struct Column {
    state: (f64, f64),
    actions: (f64, f64),
}

fn column(joint: usize) -> Column {
    let j = joint as f64;
    Column { state: (0.1 * j - 0.4, 0.3 + 0.05 * j), actions: (0.35 - 0.07 * j, 0.9 - 0.03 * j) }
}

/// Whether this is one of ALOHA's grippers.
pub fn is_gripper(joint: usize) -> bool {
    joint % 7 == 6
}

/// Which way a joint turns for openpi's models: shoulders and elbows the other way.
pub fn turn(joint: usize) -> f64 {
    if matches!(joint % 7, 1 | 2) { -1.0 } else { 1.0 }
}

impl Known {
    /// Position of a joint at a point, from where it was, in the units of the robot of config/aloha.yaml.
    pub fn position(&self, joint: usize, point: usize, measured: f64) -> f64 {
        let delta = if point >= self.step_at { self.delta[joint] } else { 0.0 };
        if !is_gripper(joint) {
            return measured + turn(joint) * delta;
        }
        // Its way there and back again is no identity; tests/observe_normalization.rs has it from openpi.
        let gripper = JointUnits::new(&[], &[], &[JointConversion::AlohaGripper], 1).unwrap();
        let mut position = [0.0];
        gripper.to_model(&[measured], &mut position);
        position[0] += delta;
        gripper.to_robot(&mut position);
        position[0]
    }

    /// Writes the checkpoint with its statistics and a tokenizer.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), CONFIG.to_json().to_string()).unwrap();
        write_small_tokenizer(&folder.join("tokenizer.json"), CONFIG.vocabulary).unwrap();
        let statistics = |pick: fn(&Column) -> (f64, f64)| {
            let columns: Vec<_> = (0..JOINTS).map(|joint| pick(&column(joint))).collect();
            json!({
                "mean": columns.iter().map(|column| column.0).collect::<Vec<_>>(),
                "std": columns.iter().map(|column| column.1).collect::<Vec<_>>(),
            })
        };
        let stats = json!({ "norm_stats": { "state": statistics(|c| c.state), "actions": statistics(|c| c.actions) } });
        fs::write(folder.join("norm_stats.json"), stats.to_string()).unwrap();

        let mut weights = Weights::zero();
        self.state_token(&mut weights);
        action_tokens(&mut weights);
        self.attention(&mut weights);
        self.velocity(&mut weights);
        weights.write(&folder.join("model.safetensors"));
    }

    fn state_token(&self, weights: &mut Weights) {
        (0..JOINTS).for_each(|joint| weights.set("state_proj.weight", [joint, joint], 1.0));
        weights.set_bias("state_proj.bias", STATE_CONSTANT, C);
    }

    fn attention(&self, weights: &mut Weights) {
        let of = |name: &str| format!("{EXPERT}layers.0.self_attn.{name}_proj.weight");
        // What a norm makes of the constant, and of 1 beside it.
        let (constant, one) = ((WIDTH as f32).sqrt(), (WIDTH as f32).sqrt() / C);
        for frequency in [SLOW, FAST] {
            weights.set(&of("k"), [frequency, STATE_CONSTANT], 1.0 / constant);
        }
        let score = |wanted: f32| wanted * (HEAD as f32).sqrt() / constant;
        weights.set(&of("q"), [SLOW, ACTION_CONSTANT], score(40.0));
        // The state stands one position before point 0. The score's angle is psi + w (1 + i).
        let angle = 1e4_f32.powf(-(FAST as f32) / (HEAD / 2) as f32);
        let psi = -angle * (self.step_at as f32 + 0.5) - std::f32::consts::FRAC_PI_2;
        weights.set(&of("q"), [HEAD + FAST, ACTION_CONSTANT], score(3000.0) * psi.cos());
        weights.set(&of("q"), [HEAD + FAST + HEAD / 2, ACTION_CONSTANT], score(3000.0) * psi.sin());

        for joint in 0..JOINTS {
            weights.set(&of("v"), [joint, joint], 1.0 / one);
            weights.set(&of("o"), [COPIED + joint, joint], 1.0);
        }
        weights.set(&of("v"), [ONE, STATE_CONSTANT], 1.0 / constant);
        weights.set(&of("o"), [STEP, HEAD + ONE], 1.0);
    }

    /// v = N (x - gain s - offset - step), each term by its channel.
    fn velocity(&self, weights: &mut Weights) {
        let steps = CONFIG.denoising_steps as f64;
        let (constant, one) = ((WIDTH as f64).sqrt(), (WIDTH as f64).sqrt() / f64::from(C));
        for joint in 0..JOINTS {
            let Column { state: (state_mean, state_std), actions: (mean, std) } = column(joint);
            let (state_std, std) = (state_std + EPSILON, std + EPSILON);
            // action * std + mean = [state * state_std + state_mean] + delta; in brackets is what the mask adds by itself.
            let copied = f64::from(u8::from(!self.masked[joint]));
            let gain = copied * state_std / std;
            let offset = (copied * state_mean - mean) / std;
            let step = self.delta[joint] / std;
            let mut set = |channel: usize, value: f64| {
                weights.set("action_out_proj.weight", [joint, channel], (steps * value) as f32);
            };
            set(joint, 1.0 / one);
            set(COPIED + joint, -gain / one);
            set(STEP, -step / one);
            set(ACTION_CONSTANT, -offset / constant);
        }
    }
}

fn action_tokens(weights: &mut Weights) {
    for channel in 0..JOINTS {
        weights.set("action_in_proj.weight", [channel, channel], 1.0);
        weights.set("action_time_mlp_in.weight", [channel, channel], 1.0);
        weights.set_bias("action_time_mlp_in.bias", channel, LINEAR);
        weights.set("action_time_mlp_out.weight", [channel, channel], 1.0);
        weights.set_bias("action_time_mlp_out.bias", channel, -LINEAR);
    }
    weights.set_bias("action_time_mlp_out.bias", ACTION_CONSTANT, C);
}

const EXPERT: &str = "paligemma_with_expert.gemma_expert.model.";

/// Every tensor of the checkpoint, by key: its shape and elements.
struct Weights(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Weights {
    fn zero() -> Self {
        let zero = weight_specs(&CONFIG).unwrap().into_iter().map(|spec| {
            let elements = vec![0.0; spec.shape.iter().product()];
            (spec.key, (spec.shape, elements))
        });
        Self(zero.collect())
    }

    fn set(&mut self, key: &str, [row, column]: [usize; 2], value: f32) {
        let (shape, elements) = self.0.get_mut(key).unwrap_or_else(|| panic!("no tensor {key}"));
        assert!(row < shape[0] && column < shape[1], "{key} is {shape:?}");
        elements[row * shape[1] + column] = value;
    }

    fn set_bias(&mut self, key: &str, index: usize, value: f32) {
        self.0.get_mut(key).unwrap_or_else(|| panic!("no tensor {key}")).1[index] = value;
    }

    fn write(&self, path: &Path) {
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .0
            .iter()
            .map(|(key, (shape, elements))| {
                (key, shape, elements.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(key, shape, bytes)| (key, TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, path).unwrap();
    }
}
