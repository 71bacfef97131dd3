//! A checkpoint's `config.json`: read into a model's sizes, and written from them. Called by `checkpoint`.
//!
//! Both lerobot's keys (`chunk_size`, `max_action_dim`, ..) and openpi's (`action_horizon`, `action_dim`) are read;
//! sizes other than the named variants stand in an `architecture` block of ours.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::config::{GemmaConfig, PolicyConfig, VisionConfig};
use super::continuation::Continuation;
use super::variant::{StateInput, Variant};
use crate::json;

/// A `config.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct ConfigError {
    pub path: PathBuf,
    pub message: String,
}

/// A `config.json` that was read; where it leaves something out, the weights may say it.
pub struct Description {
    path: PathBuf,
    file: ConfigFile,
}

impl Description {
    /// What the `config.json` of a checkpoint folder says.
    pub fn from_json(folder: &Path, config: Value) -> Result<Self, ConfigError> {
        let path = folder.join("config.json");
        let fail = |message: String| ConfigError { path: path.clone(), message };
        let file: ConfigFile = json::typed(config).map_err(fail)?;
        // What this build cannot run is said before anybody looks for its weights.
        file.said().map_err(fail)?;
        Ok(Self { path, file })
    }

    /// The model, whose weights are those of `found` as far as they tell.
    pub fn config(&self, found: Option<Variant>) -> Result<PolicyConfig, ConfigError> {
        let fail = |message: String| ConfigError { path: self.path.clone(), message };
        PolicyConfig::from_file(&self.file, found).map_err(fail)
    }
}

impl PolicyConfig {
    fn from_file(file: &ConfigFile, found: Option<Variant>) -> Result<Self, String> {
        let variant = file.variant(found)?;
        let vision = file.architecture.as_ref().map(|a| &a.vision);
        let image = match file.image_resolution {
            None => Self::PI0.vision.image,
            Some([height, width]) if height == width => height,
            Some([height, width]) => {
                return Err(format!(
                    "'image_resolution' is {height}x{width}; the vision tower takes squares"
                ));
            }
        };
        let config = Self {
            vision: match vision {
                None => VisionConfig { image, ..Self::PI0.vision },
                Some(v) => VisionConfig {
                    width: v.hidden_size,
                    layers: v.num_hidden_layers,
                    heads: v.num_attention_heads,
                    mlp: v.intermediate_size,
                    patch: v.patch_size,
                    image,
                },
            },
            ..match &file.architecture {
                None => Self {
                    vlm: named_sizes("paligemma_variant", file.paligemma_variant.as_deref(), "gemma_2b")?,
                    expert: named_sizes(
                        "action_expert_variant",
                        file.action_expert_variant.as_deref(),
                        "gemma_300m",
                    )?,
                    ..Self::PI0
                },
                Some(Architecture { vlm, expert, .. }) => {
                    let shared = GemmaConfig {
                        width: vlm.hidden_size,
                        layers: vlm.num_hidden_layers,
                        mlp: vlm.intermediate_size,
                        heads: vlm.num_attention_heads,
                        kv_heads: vlm.num_key_value_heads,
                        head_dim: vlm.head_dim,
                    };
                    let expert =
                        GemmaConfig { width: expert.hidden_size, mlp: expert.intermediate_size, ..shared };
                    Self { vlm: shared, expert, vocabulary: vlm.vocab_size, ..Self::PI0 }
                }
            }
        };
        let or = |given: Option<usize>, default: usize| given.unwrap_or(default);
        Self {
            variant,
            action_horizon: or(file.chunk_size, Self::PI0.action_horizon),
            action_dim: or(file.max_action_dim, Self::PI0.action_dim),
            state_dim: or(file.max_state_dim.or(file.max_action_dim), Self::PI0.state_dim),
            denoising_steps: or(file.num_inference_steps, Self::PI0.denoising_steps),
            prompt_tokens: or(file.tokenizer_max_length, variant.prompt_tokens),
            continuation: match file.rtc_training_max_delay {
                None | Some(0) => Continuation::Free,
                Some(most) => Continuation::Given { most },
            },
            ..config
        }
        .checked()
    }

    /// The `config.json` of this model, in lerobot's keys.
    pub fn to_json(&self) -> Value {
        let Self { vision, vlm, expert, .. } = self;
        let mut file = json!({
            "type": self.variant.name,
            "chunk_size": self.action_horizon,
            "max_action_dim": self.action_dim,
            "max_state_dim": self.state_dim,
            "num_inference_steps": self.denoising_steps,
            "tokenizer_max_length": self.prompt_tokens,
            "image_resolution": [vision.image, vision.image],
        });
        if let Continuation::Given { most } = self.continuation {
            file["rtc_training_max_delay"] = json!(most);
        }
        let usual = Variant::named(self.variant.name).map(|variant| variant.state);
        match self.variant.state {
            state if Some(state) == usual => {}
            StateInput::Nowhere => file["discrete_state_input"] = json!(false),
            StateInput::Prompt { padded } => file["pad_discrete_state"] = json!(padded),
            StateInput::Token => {}
        }
        if (vision.width, *vlm, *expert) == (Self::PI0.vision.width, Self::PI0.vlm, Self::PI0.expert) {
            file["paligemma_variant"] = json!("gemma_2b");
            file["action_expert_variant"] = json!("gemma_300m");
        } else {
            file["architecture"] = json!({
                "vision": {
                    "hidden_size": vision.width, "num_hidden_layers": vision.layers,
                    "num_attention_heads": vision.heads, "intermediate_size": vision.mlp, "patch_size": vision.patch,
                },
                "vlm": {
                    "hidden_size": vlm.width, "num_hidden_layers": vlm.layers, "intermediate_size": vlm.mlp,
                    "num_attention_heads": vlm.heads, "num_key_value_heads": vlm.kv_heads,
                    "head_dim": vlm.head_dim, "vocab_size": self.vocabulary,
                },
                "expert": { "hidden_size": expert.width, "intermediate_size": expert.mlp },
            });
        }
        file
    }
}

/// The named sizes of openpi's `gemma.py`.
fn named_sizes(key: &str, given: Option<&str>, default: &str) -> Result<GemmaConfig, String> {
    match given.unwrap_or(default) {
        "gemma_2b" => Ok(PolicyConfig::PI0.vlm),
        "gemma_300m" => Ok(PolicyConfig::PI0.expert),
        other => Err(format!("'{key}' is \"{other}\"; known are \"gemma_2b\" and \"gemma_300m\"")),
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    pi05: Option<bool>,
    /// openpi's: whether the state is in the prompt.
    discrete_state_input: Option<bool>,
    /// Ours, for checkpoints that lerobot 0.4 trained: whether the state is padded before it goes into the prompt.
    pad_discrete_state: Option<bool>,
    paligemma_variant: Option<String>,
    action_expert_variant: Option<String>,
    #[serde(alias = "action_horizon")]
    chunk_size: Option<usize>,
    #[serde(alias = "action_dim")]
    max_action_dim: Option<usize>,
    max_state_dim: Option<usize>,
    #[serde(alias = "num_steps")]
    num_inference_steps: Option<usize>,
    #[serde(alias = "max_token_len")]
    tokenizer_max_length: Option<usize>,
    #[serde(alias = "resize_imgs_with_padding")]
    image_resolution: Option<[usize; 2]>,
    /// lerobot's: how many points may be given, where the policy was trained for that.
    rtc_training_max_delay: Option<usize>,
    architecture: Option<Architecture>,
}

impl ConfigFile {
    /// Which member of the family it says that this is, if it does.
    fn said(&self) -> Result<Option<Variant>, String> {
        let names = || Variant::ALL.map(|variant| format!("\"{}\"", variant.name)).join(" and ");
        let named = match &self.kind {
            None => None,
            Some(kind) => Some(
                Variant::named(kind)
                    .ok_or_else(|| format!("'type' is \"{kind}\"; this build runs {}", names()))?,
            ),
        };
        // openpi's flag, which stands in place of a type.
        let flagged = self.pi05.map(|pi05| if pi05 { Variant::PI05 } else { Variant::PI0 });
        match (named, flagged) {
            (Some(named), Some(flagged)) if named != flagged => {
                Err(format!("'type' is \"{}\", but 'pi05' is {}", named.name, flagged == Variant::PI05))
            }
            (named, flagged) => Ok(named.or(flagged)),
        }
    }

    /// As the file and the weights say.
    fn variant(&self, found: Option<Variant>) -> Result<Variant, String> {
        let said = self.said()?;
        if let (Some(said), Some(found)) = (said, found)
            && said != found
        {
            return Err(format!(
                "it says that this is {}, but the weights are {}'s (there is '{}'): set 'type' to \"{}\"",
                said.name,
                found.name,
                found.own_tensors.join("' or '"),
                found.name
            ));
        }
        let mut variant = said.or(found).unwrap_or(Variant::PI0);
        let in_prompt = matches!(variant.state, StateInput::Prompt { .. });
        match (in_prompt, self.discrete_state_input, self.pad_discrete_state) {
            (false, Some(true), _) => {
                return Err(format!("'discrete_state_input' is true, which is not for {}", variant.name));
            }
            (true, Some(false), _) => variant.state = StateInput::Nowhere,
            (true, _, Some(padded)) => variant.state = StateInput::Prompt { padded },
            _ => {}
        }
        Ok(variant)
    }
}

#[derive(Deserialize)]
struct Architecture {
    vision: VisionArchitecture,
    vlm: VlmArchitecture,
    expert: ExpertArchitecture,
}

#[derive(Deserialize)]
struct VisionArchitecture {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    patch_size: usize,
}

#[derive(Deserialize)]
struct VlmArchitecture {
    hidden_size: usize,
    num_hidden_layers: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    vocab_size: usize,
}

#[derive(Deserialize)]
struct ExpertArchitecture {
    hidden_size: usize,
    intermediate_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: Value) -> Result<PolicyConfig, String> {
        parse_for(file, None)
    }

    fn parse_for(file: Value, found: Option<Variant>) -> Result<PolicyConfig, String> {
        PolicyConfig::from_file(&json::typed(file)?, found)
    }

    #[test]
    fn every_preset_survives_its_own_json() {
        let mut presets =
            vec![PolicyConfig::PI0, PolicyConfig::MINI, PolicyConfig::SMALL, PolicyConfig::TINY];
        presets.extend([PolicyConfig::PI05, PolicyConfig::PI05_MINI, PolicyConfig::PI05_TINY]);
        for state in [StateInput::Nowhere, StateInput::Prompt { padded: true }] {
            let variant = Variant { state, ..Variant::PI05 };
            presets.push(PolicyConfig { variant, ..PolicyConfig::PI05_TINY });
        }
        presets
            .push(PolicyConfig { continuation: Continuation::Given { most: 8 }, ..PolicyConfig::PI05_TINY });
        for config in presets {
            assert_eq!(parse(config.to_json()), Ok(config));
        }
    }

    #[test]
    fn the_member_is_said_by_the_type_by_openpis_flag_or_by_the_weights() {
        let openpi = || json!({"action_dim": 32, "action_horizon": 15, "precision": "bfloat16"});
        let droid = PolicyConfig { action_horizon: 15, ..PolicyConfig::PI05 };
        assert_eq!(parse_for(openpi(), Some(Variant::PI05)), Ok(droid));
        assert_eq!(parse(json!({"type": "pi05", "chunk_size": 15})), Ok(droid));
        assert_eq!(parse(json!({"pi05": true, "action_horizon": 15})), Ok(droid));
        let libero = parse(json!({"pi05": true, "discrete_state_input": false})).unwrap();
        assert_eq!((libero.variant.state, libero.prompt_tokens), (StateInput::Nowhere, 200));
        assert_eq!(parse_for(openpi(), Some(Variant::PI0)).unwrap().variant, Variant::PI0);
        for (file, expected) in [
            (json!({"type": "pi0"}), "it says that this is pi0, but the weights are pi05's"),
            (json!({"pi05": false}), "set 'type' to \"pi05\""),
            (json!({"type": "pi0_fast"}), "'type' is \"pi0_fast\"; this build runs \"pi0\" and \"pi05\""),
            (json!({"type": "pi0", "pi05": true}), "'type' is \"pi0\", but 'pi05' is true"),
        ] {
            let error = parse_for(file, Some(Variant::PI05)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = parse(json!({"type": "pi0", "discrete_state_input": true})).unwrap_err();
        assert!(error.contains("'discrete_state_input' is true, which is not for pi0"), "{error}");
    }

    #[test]
    fn openpi_keys_are_read_too() {
        let config = parse(json!({
            "action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b",
            "action_expert_variant": "gemma_300m", "precision": "bfloat16",
        }))
        .unwrap();
        assert_eq!(config, PolicyConfig { action_horizon: 10, ..PolicyConfig::PI0 });
    }

    #[test]
    fn what_is_of_another_type_is_named() {
        for (key, value, expected) in [
            ("chunk_size", json!("50"), "'chunk_size': invalid type: string \"50\", expected usize"),
            ("max_action_dim", json!(-1), "'max_action_dim': invalid value: integer `-1`"),
            ("image_resolution", json!([224, "x"]), "'image_resolution[1]': invalid type: string"),
        ] {
            let mut file = PolicyConfig::PI0.to_json();
            file[key] = value;
            let error = parse(file).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let mut file = PolicyConfig::TINY.to_json();
        file["architecture"]["vlm"]["head_dim"] = json!(1.5);
        let error = parse(file.clone()).unwrap_err();
        assert!(error.starts_with("'architecture.vlm.head_dim': invalid type: floating point"), "{error}");
        file["architecture"]["expert"].as_object_mut().unwrap().remove("hidden_size");
        file["architecture"]["vlm"]["head_dim"] = json!(8);
        let error = parse(file).unwrap_err();
        assert_eq!(error, "'architecture.expert': missing field `hidden_size`");
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        for (key, value, expected) in [
            ("chunk_size", json!(0), "'chunk_size' is 0; it must be 1 to 1024"),
            ("chunk_size", json!(1025), "'chunk_size' is 1025; it must be 1 to 1024"),
            ("num_inference_steps", json!(1001), "'num_inference_steps' is 1001; it must be 1 to 1000"),
            ("tokenizer_max_length", json!(4097), "'tokenizer_max_length' is 4097; it must be 1 to 4096"),
            (
                "image_resolution",
                json!([1022, 1022]),
                "make 5329 tokens of an image; it must be at most 4096",
            ),
            ("image_resolution", json!([224, 200]), "'image_resolution' is 224x200"),
            ("image_resolution", json!([225, 225]), "must be a multiple of vision.patch_size (14)"),
            (
                "rtc_training_max_delay",
                json!(50),
                "'rtc_training_max_delay' is 50; it must be less than the 50 points of a chunk",
            ),
            ("type", json!("act"), "'type' is \"act\""),
            ("paligemma_variant", json!("gemma_7b"), "known are"),
        ] {
            let mut file = PolicyConfig::PI0.to_json();
            file[key] = value;
            let error = parse(file).unwrap_err();
            assert!(error.contains(expected), "{key}: {error}");
        }
        let mut deep = PolicyConfig::TINY.to_json();
        deep["architecture"]["vlm"]["num_hidden_layers"] = json!(1 << 20);
        assert!(parse(deep).unwrap_err().contains("'vlm.num_hidden_layers' is 1048576; it must be 1 to 256"));
    }
}
