//! Settings and a checkpoint: sizes, statistics, tokenizer, cameras. Nothing is compiled, so this takes a moment.

use std::fs;
use std::path::Path;

use super::Verdict;
use crate::control::{AssembleError, Prompts, trained};
use crate::observe::{NormalizationError, Normalizer, RelativeActions, RelativeActionsError, TokenizerError};
use crate::policy::{Checkpoint, Continuation, PolicyConfig, StateInput};
use crate::settings::{ChunkJoin, Settings};

/// What there is to say about the settings with their checkpoint.
pub fn checkpoint(settings: &Settings) -> Vec<Verdict> {
    let folder = &settings.checkpoint;
    let (mut verdicts, config) = match Checkpoint::open(folder) {
        Ok(checkpoint) => {
            let config = *checkpoint.config();
            let message = format!(
                "{}: {}, states of {}, actions of {}, chunks of {} points, {} denoising steps, every tensor there",
                folder.display(),
                config.variant.name,
                config.state_dim,
                config.action_dim,
                config.action_horizon,
                config.denoising_steps
            );
            (vec![Verdict::ok("checkpoint", message), weights(&checkpoint)], config)
        }
        Err(error) => return vec![Verdict::error("checkpoint", error.to_string())],
    };
    verdicts.extend(normalization(settings, &config));
    verdicts.push(tokenizer(settings, &config));
    verdicts.extend(state_padding(folder, &config));
    verdicts.extend(cameras(settings, folder));
    verdicts.push(times(settings, &config));
    verdicts.push(join(settings, &config));
    verdicts.extend(real_time_chunking(settings, &config));
    verdicts
}

/// Whether every weight is a number.
fn weights(checkpoint: &Checkpoint) -> Verdict {
    const SHOWN: usize = 5;
    let found = checkpoint.not_finite();
    if found.is_empty() {
        return Verdict::ok("weights", "every element is a finite number");
    }
    let more = found.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    Verdict::error("weights", format!("{}{more}", found[..found.len().min(SHOWN)].join("\n")))
}

fn normalization(settings: &Settings, config: &PolicyConfig) -> Vec<Verdict> {
    let joints = settings.joints.len();
    let loaded = Normalizer::load(&settings.checkpoint, &settings.normalization, joints, trained(config));
    let normalizer = match loaded {
        Ok(normalizer) => normalizer,
        Err(error @ NormalizationError::TooManyJoints { .. }) => {
            return vec![Verdict::error("joints", error.to_string())];
        }
        Err(error) => return vec![Verdict::error("normalization", error.to_string())],
    };
    let mut verdicts = vec![Verdict::ok("normalization", format!("statistics for {joints} joints"))];
    if let Some(trained) = normalizer.moving_dimensions().filter(|trained| *trained != joints) {
        let message = format!(
            "the statistics are of {trained} dimensions that move, but {joints} joints are configured: is it another \
             robot's checkpoint?"
        );
        verdicts.push(Verdict::warning("normalization", message));
    }
    for remark in normalizer.remarks(&settings.joints) {
        let is_source = normalizer.among_weights().is_some() && verdicts.len() == 1;
        verdicts.push(if is_source {
            Verdict::ok("normalization", remark)
        } else {
            Verdict::warning("normalization", remark)
        });
    }
    verdicts.extend(actions(settings, &normalizer));
    verdicts
}

/// What the checkpoint says about its actions, beside what the settings say.
fn actions(settings: &Settings, normalizer: &Normalizer) -> Vec<Verdict> {
    let Some(step) = normalizer.relative() else { return Vec::new() };
    let Settings { delta_actions, velocity_step, joints, .. } = settings;
    let actions = match RelativeActions::of_checkpoint(Some(step), delta_actions, velocity_step, joints) {
        // What is wrong with the parameters alone has been said already.
        Err(RelativeActionsError::Delta(_) | RelativeActionsError::Velocity(_)) => return Vec::new(),
        Err(error @ (RelativeActionsError::OtherOrder { .. } | RelativeActionsError::OtherJoints { .. })) => {
            return vec![Verdict::error("joints", error.to_string())];
        }
        Err(error) => return vec![Verdict::error("delta_actions", error.to_string())],
        Ok(actions) => actions,
    };
    let message = match actions.differences() {
        0 => "by the checkpoint, every action is an absolute position".to_owned(),
        differences => format!(
            "by the checkpoint, {differences} of {} joints are differences from the state",
            joints.len()
        ),
    };
    vec![Verdict::ok("actions", message)]
}

fn tokenizer(settings: &Settings, config: &PolicyConfig) -> Verdict {
    let joints = settings.joints.len();
    let prompts = Prompts::load(&settings.checkpoint, settings.tokenizer.as_deref(), config, joints);
    let lengths = prompts.and_then(|prompts| Ok(prompts.lengths(&prompts.encode(&settings.prompt)?)));
    match lengths {
        Err(TokenizerError::OutsideVocabulary { token, .. }) => Verdict::error(
            "tokenizer",
            format!(
                "it gives token {token}, but the model's vocabulary has {}: this tokenizer is not the checkpoint's",
                config.vocabulary
            ),
        ),
        Err(error) => Verdict::error("tokenizer", error.to_string()),
        Ok(lengths) => {
            let (shortest, longest) = lengths.into_inner();
            let used = if shortest == longest {
                longest.to_string()
            } else {
                format!("{shortest} to {longest}, the state in it,")
            };
            Verdict::ok("tokenizer", format!("the prompt is {used} of {} tokens", config.prompt_tokens))
        }
    }
}

/// Whether the state was padded in the prompts that it was trained with, which lerobot's files do not say: 0.4 did it, 0.5 did not,
/// and since 0.5.1 there is a step that earlier versions do not have.
fn state_padding(folder: &Path, config: &PolicyConfig) -> Option<Verdict> {
    const KEY: &str = "pad_discrete_state";
    let read = |name: &str| -> Option<serde_json::Value> {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).ok()?).ok()
    };
    let processors = read("policy_preprocessor.json")?;
    let steps = processors["steps"].as_array()?;
    let has = |name: &str| steps.iter().any(|step| step["registry_name"] == name);
    let said = read("config.json").is_some_and(|config| config.get(KEY).is_some());
    let in_prompt = matches!(config.variant.state, StateInput::Prompt { .. });
    if !in_prompt
        || said
        || !has("pi05_prepare_state_tokenizer_processor_step")
        || has("relative_actions_processor")
    {
        return None;
    }
    let message = format!(
        "lerobot 0.4 or 0.5.0 wrote this; if it was trained with 0.4, its prompts have {} numbers: set \"{KEY}\": true in \
         config.json, else false",
        config.state_dim
    );
    Some(Verdict::warning("prompt", message))
}

/// lerobot's checkpoints name their images; openpi's do not.
fn cameras(settings: &Settings, folder: &Path) -> Option<Verdict> {
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).ok()?).ok()?;
    let features = config.get("input_features")?.as_object()?;
    let trained: Vec<&str> =
        features.keys().filter_map(|key| key.strip_prefix("observation.images.")).collect();
    if trained.is_empty() {
        return None;
    }
    let names: Vec<&str> = settings.cameras.iter().map(|camera| camera.name.as_str()).collect();
    Some(if trained.len() != names.len() {
        Verdict::error(
            "cameras",
            format!(
                "the checkpoint has {} ({}), but {} are configured",
                trained.len(),
                trained.join(", "),
                names.len()
            ),
        )
    } else if names.iter().any(|name| !trained.contains(name)) {
        let message = format!(
            "the checkpoint calls them {}; the configuration {}: only the order counts, see that it is the same",
            trained.join(", "),
            names.join(", ")
        );
        Verdict::warning("cameras", message)
    } else {
        Verdict::ok("cameras", format!("the checkpoint's: {}", names.join(", ")))
    })
}

fn times(settings: &Settings, config: &PolicyConfig) -> Verdict {
    let lasts_ms = config.action_horizon as f64 / settings.control_hz * 1e3;
    if settings.latency_budget_ms >= lasts_ms {
        let message = format!(
            "a chunk of {} points at {} Hz is over after {lasts_ms:.0} ms, before latency_budget_ms ({})",
            config.action_horizon, settings.control_hz, settings.latency_budget_ms
        );
        Verdict::error("control_hz", message)
    } else {
        Verdict::ok("control_hz", format!("a chunk lasts {lasts_ms:.0} ms"))
    }
}

/// How chunks follow each other, and whether the policy was trained for it.
fn join(settings: &Settings, config: &PolicyConfig) -> Verdict {
    const PART: &str = "chunk_join";
    let name = settings.chunk_join.name();
    match (settings.chunk_join, config.continuation) {
        (ChunkJoin::Trained { .. }, Continuation::Free | Continuation::Guided { .. }) => {
            Verdict::error(PART, AssembleError::NotTrained.to_string())
        }
        (ChunkJoin::Auto { .. } | ChunkJoin::Trained { .. }, Continuation::Given { most }) => {
            Verdict::ok(PART, format!("{name}: up to {most} points of each chunk are given, as in training"))
        }
        (_, Continuation::Given { .. }) => Verdict::warning(
            PART,
            format!("{name}, but the policy was trained with given points: auto gives them"),
        ),
        (ChunkJoin::Auto { .. }, _) => Verdict::ok(PART, "auto: chunks are guided towards what was sent"),
        _ => Verdict::ok(PART, name),
    }
}

/// Whether what leads a chunk fits the chunk, where chunks are led.
fn real_time_chunking(settings: &Settings, config: &PolicyConfig) -> Vec<Verdict> {
    let (rtc, points) = (&settings.rtc, config.action_horizon);
    let given = match (settings.chunk_join, config.continuation) {
        (ChunkJoin::Replace | ChunkJoin::Blend { .. }, _) => return Vec::new(),
        (ChunkJoin::Auto { .. } | ChunkJoin::Trained { .. }, Continuation::Given { most }) => Some(most),
        _ => None,
    };
    let mut verdicts = Vec::new();
    let mut warn = |part: &str, message: String| verdicts.push(Verdict::warning(part, message));
    if let Some(delay_ms) = rtc.delay_ms {
        let delay = (delay_ms / 1e3 * settings.control_hz).ceil() as usize;
        let gone = format!("{delay_ms} ms are {delay} points");
        if delay >= points {
            let message =
                format!("{gone}, and a chunk has {points}: none is left that could answer what is seen");
            warn("rtc_delay_ms", message);
        } else if let Some(most) = given.filter(|most| delay > *most) {
            warn(
                "rtc_delay_ms",
                format!("{gone}, but the policy was trained with at most {most} given ones"),
            );
        }
    }
    if given.is_none() {
        if rtc.horizon > points {
            let message = format!("{} points, but a chunk has {points}: it counts as so many", rtc.horizon);
            warn("rtc_horizon", message);
        }
        let steps = settings.denoise_steps.last().copied().unwrap_or(config.denoising_steps);
        if rtc.most_guidance > steps as f64 {
            let message = format!(
                "{} is more than the {steps} denoising steps: the last of them overshoot what was sent",
                rtc.most_guidance
            );
            warn("rtc_max_guidance", message);
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Rtc;

    #[test]
    fn what_leads_a_chunk_must_fit_it() {
        let of = |change: &dyn Fn(&mut Settings), config: &PolicyConfig| {
            let mut settings = Settings::of_one_joint();
            change(&mut settings);
            let verdicts = real_time_chunking(&settings, config);
            assert!(verdicts.iter().all(|verdict| verdict.level == crate::check::Level::Warning));
            verdicts
                .iter()
                .map(|verdict| format!("{}: {}", verdict.subject, verdict.message))
                .collect::<Vec<_>>()
        };
        // 50 points of 20 ms, 10 steps.
        let config = &PolicyConfig::PI0;
        let none: [String; 0] = [];
        assert_eq!(of(&|_| {}, config), none);
        let far = |settings: &mut Settings| {
            let rtc = Rtc { horizon: 51, most_guidance: 10.5, delay_ms: Some(981.0), ..settings.rtc };
            settings.rtc = rtc;
        };
        let said = of(&far, config);
        for (found, expected) in said.iter().zip([
            "rtc_delay_ms: 981 ms are 50 points, and a chunk has 50",
            "rtc_horizon: 51 points, but a chunk has 50",
            "rtc_max_guidance: 10.5 is more than the 10 denoising steps",
        ]) {
            assert!(found.starts_with(expected), "{found}");
        }
        assert_eq!(said.len(), 3);
        // Just right.
        let near = |settings: &mut Settings| {
            let rtc = Rtc { horizon: 50, most_guidance: 10.0, delay_ms: Some(980.0), ..settings.rtc };
            settings.rtc = rtc;
        };
        assert_eq!(of(&near, config), none);
        // The fewest steps count.
        assert_eq!(of(&|settings| settings.denoise_steps = vec![10, 5], config).len(), 1);
        // Where no chunk is led, nothing of it matters.
        let replaced = |settings: &mut Settings| {
            far(settings);
            settings.chunk_join = ChunkJoin::Replace;
        };
        assert_eq!(of(&replaced, config), none);
        // Given points: neither horizon nor guidance.
        let trained = &PolicyConfig { continuation: Continuation::Given { most: 8 }, ..*config };
        let delayed = |settings: &mut Settings| settings.rtc.delay_ms = Some(200.0);
        let said = of(&delayed, trained);
        assert_eq!(
            said,
            ["rtc_delay_ms: 200 ms are 10 points, but the policy was trained with at most 8 given ones"]
        );
        assert_eq!(of(&far, trained).len(), 1);
    }

    #[test]
    fn lerobots_files_that_leave_the_padding_open_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |steps: &[&str], config: &str| {
            let steps: Vec<_> = steps.iter().map(|name| serde_json::json!({"registry_name": name})).collect();
            let processors = serde_json::json!({ "steps": steps }).to_string();
            fs::write(folder.path().join("policy_preprocessor.json"), processors).unwrap();
            fs::write(folder.path().join("config.json"), config).unwrap();
        };
        let found =
            |config: &PolicyConfig| state_padding(folder.path(), config).map(|verdict| verdict.message);
        let old = ["normalizer_processor", "pi05_prepare_state_tokenizer_processor_step"];
        write(&old, "{}");
        let message = found(&PolicyConfig::PI05).unwrap();
        assert!(message.contains("32 numbers: set \"pad_discrete_state\": true in config.json"), "{message}");
        assert_eq!(found(&PolicyConfig::PI0), None);
        write(&old, r#"{"pad_discrete_state": false}"#);
        assert_eq!(found(&PolicyConfig::PI05), None);
        write(&[&old[..], &["relative_actions_processor"]].concat(), "{}");
        assert_eq!(found(&PolicyConfig::PI05), None);
    }
}
