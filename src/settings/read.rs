//! Raw parameter values to [`Settings`]: every problem is found before any is reported. Called by `node` with what
//! ROS 2 gives, by `cli replay` with what a parameter file gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use super::robot::{check_topic, not_unique, stamp_source};
use super::value::{Problem, Value, Values, complete, problem};
use super::{ChunkJoin, Interpolation, Normalization, OnDeadlineMiss, RealTimeSettings, Rtc, Settings};
use crate::device::cpu::{Dtype, Precision};
use crate::device::tenstorrent::{Precisions, Tuning};
use crate::policy::Schedule;
use crate::wording::Shown;

/// Parameters that cannot be used: all of them, not just the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the parameters cannot be used:")?;
        for Problem { parameter, message } in &self.problems {
            write!(f, "\n  {parameter}: {message}")?;
        }
        Ok(())
    }
}

impl Settings {
    /// Settings from raw values by the parameter table.
    pub fn from_values(given: &BTreeMap<String, Value>) -> Result<Self, SettingsError> {
        let (values, mut problems) = complete(given);
        let settings = Values(values).settings(&mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError { problems }) }
    }
}

impl Values {
    fn settings(&self, problems: &mut Vec<Problem>) -> Settings {
        let optional = |text: String| (!text.is_empty()).then_some(text);
        let joint_states_topics = self.texts("joint_states_topic");
        for topic in &joint_states_topics {
            if let Err(message) = check_topic(topic) {
                problems.push(problem("joint_states_topic", message));
            }
        }
        problems.extend(not_unique("joint_states_topic", &joint_states_topics));
        let joints = self.texts("joints");
        problems.extend(not_unique("joints", &joints));
        Settings {
            checkpoint: self.text("checkpoint").into(),
            device: self.text("device"),
            precision: self.precision(problems),
            threads: self.count("threads"),
            cuda_libraries: optional(self.text("cuda_libraries")).map(Into::into),
            tenstorrent: self.tenstorrent(),
            seed: self.integer("seed").unsigned_abs(),
            cameras: self.cameras(problems),
            joint_states_topics,
            joint_stamps: stamp_source(&self.text("joint_stamps")),
            joint_scale: self.floats("joint_scale"),
            joint_offset: self.floats("joint_offset"),
            joint_conversion: self.units(problems),
            joints,
            prompt: self.text("prompt"),
            tokenizer: optional(self.text("tokenizer")).map(Into::into),
            normalization: self.normalization(problems),
            delta_actions: self.integers("delta_actions"),
            velocity_step: self.floats("velocity_step"),
            control_hz: self.float("control_hz"),
            sync_tolerance_ms: self.float("sync_tolerance_ms"),
            denoise_steps: self.denoise_steps(),
            sensor_timeout_ms: self.float("sensor_timeout_ms"),
            max_image_age_ms: self.float("max_image_age_ms"),
            max_joint_age_ms: self.float("max_joint_age_ms"),
            latency_budget_ms: self.float("latency_budget_ms"),
            on_deadline_miss: match self.text("on_deadline_miss").as_str() {
                "drop" => OnDeadlineMiss::Drop,
                "hold" => OnDeadlineMiss::Hold,
                _ => OnDeadlineMiss::Publish,
            },
            act_rate_hz: self.float("act_rate_hz"),
            chunk_join: match self.text("chunk_join").as_str() {
                "replace" => ChunkJoin::Replace,
                "blend" => ChunkJoin::Blend { blend_ms: self.float("blend_ms") },
                "guided" => ChunkJoin::Guided { blend_ms: self.float("blend_ms") },
                "trained" => ChunkJoin::Trained { blend_ms: self.float("blend_ms") },
                _ => ChunkJoin::Auto { blend_ms: self.float("blend_ms") },
            },
            rtc: self.rtc(),
            interpolation: match self.text("interpolation").as_str() {
                "spline" => Interpolation::Spline,
                _ => Interpolation::Linear,
            },
            outputs: self.outputs(problems),
            stream_hz: self.float("stream_hz"),
            limits: self.limits(problems),
            require_enable: self.bool("require_enable"),
            watchdog_ms: self.float("watchdog_ms"),
            real_time: RealTimeSettings {
                core: usize::try_from(self.integer("control_core")).ok(),
                priority: u8::try_from(self.integer("control_priority"))
                    .ok()
                    .filter(|priority| *priority > 0),
            },
            diagnostics_hz: self.float("diagnostics_hz"),
            dashboard: self.dashboard(problems),
            latency_folder: optional(self.text("latency_folder")).map(Into::into),
        }
    }

    fn rtc(&self) -> Rtc {
        let delay_ms = self.float("rtc_delay_ms");
        Rtc {
            horizon: self.count("rtc_horizon"),
            schedule: Schedule::named(&self.text("rtc_schedule")).unwrap_or_default(),
            most_guidance: self.float("rtc_max_guidance"),
            delay_ms: (delay_ms > 0.0).then_some(delay_ms),
        }
    }

    fn precision(&self, problems: &mut Vec<Problem>) -> Precision {
        let dtype = self.text("dtype").parse::<Dtype>();
        let device = self.text("device");
        dtype.and_then(|dtype| dtype.precision_on(&device)).unwrap_or_else(|error| {
            problems.push(problem("dtype", error.to_string()));
            Precision::F32
        })
    }

    fn tenstorrent(&self) -> Tuning {
        let kilobytes = self.count("tenstorrent_l1_activation_kb");
        Tuning {
            // The table allows these names alone.
            precisions: Precisions { weights: self.text("tenstorrent_weights").parse().unwrap_or_default() },
            trace_region_bytes: (self.count("tenstorrent_trace_region_mb") as u64) << 20,
            l1_activation_bytes: (kilobytes > 0).then_some(kilobytes << 10),
        }
    }

    fn dashboard(&self, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        let text = self.text("dashboard");
        let address = text.parse();
        if address.is_err() && !text.is_empty() {
            let message = format!(
                "must be an IP address and a port, such as 127.0.0.1:9464, but is '{}'",
                Shown(&text)
            );
            problems.push(problem("dashboard", message));
        }
        address.ok()
    }

    /// The largest first, each once.
    fn denoise_steps(&self) -> Vec<usize> {
        let steps = self.integers("denoise_steps").into_iter();
        let steps: BTreeSet<usize> = steps.filter_map(|steps| usize::try_from(steps).ok()).collect();
        steps.into_iter().rev().collect()
    }

    fn normalization(&self, problems: &mut Vec<Problem>) -> Normalization {
        let file = self.text("norm_stats");
        let data_set = self.text("norm_stats_dataset");
        let source = self.text("normalization");
        if source != "checkpoint" && !data_set.is_empty() {
            let message = format!("would not be used with `normalization: {source}`; set that to checkpoint");
            problems.push(problem("norm_stats_dataset", message));
        }
        match source.as_str() {
            "file" if file.is_empty() => {
                let message = "is not set, but `normalization: file` needs it";
                problems.push(problem("norm_stats", message));
                Normalization::Checkpoint
            }
            "file" => Normalization::File(file.into()),
            other => {
                if !file.is_empty() {
                    let message =
                        format!("would not be used with `normalization: {other}`; set that to file");
                    problems.push(problem("norm_stats", message));
                }
                match other {
                    "none" => Normalization::None,
                    _ if !data_set.is_empty() => Normalization::DataSet(data_set),
                    _ => Normalization::Checkpoint,
                }
            }
        }
    }
}

#[cfg(test)]
impl Settings {
    /// A robot with one camera and one joint, for tests of whoever reads settings.
    pub fn of_one_joint() -> Self {
        let texts = |text: &str| Value::Texts(vec![text.to_owned()]);
        let values = [
            ("checkpoint", Value::Text("model".into())),
            ("cameras", texts("base_0_rgb")),
            ("camera_topics", texts("/top")),
            ("joints", texts("waist")),
        ];
        Self::from_values(&values.map(|(name, value)| (name.to_owned(), value)).into()).unwrap()
    }
}

#[cfg(test)]
mod tests;
