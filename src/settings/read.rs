//! Raw parameter values to [`Settings`]: every problem is found before any is reported. Called by `node` with what
//! ROS 2 gives, by `cli replay` with what a parameter file gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use super::robot::{check_topic, not_unique, stamp_source};
use super::value::{Problem, Value, Values, complete, problem};
use super::{ChunkJoin, Interpolation, Normalization, OnDeadlineMiss, RealTimeSettings, Rtc, Settings};
use crate::device::cpu::{Dtype, Precision};
use crate::device::tenstorrent::{DataType, Precisions, Tuning};
use crate::policy::Schedule;

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
            precisions: Precisions {
                weights: match self.text("tenstorrent_weights").as_str() {
                    "bfloat16" => DataType::Bfloat16,
                    _ => DataType::Bfloat8B,
                },
            },
            trace_region_bytes: (self.count("tenstorrent_trace_region_mb") as u64) << 20,
            l1_activation_bytes: (kilobytes > 0).then_some(kilobytes << 10),
        }
    }

    fn dashboard(&self, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        let text = self.text("dashboard");
        let address = text.parse();
        if address.is_err() && !text.is_empty() {
            let message =
                format!("must be an IP address and a port, such as 127.0.0.1:9464, but is '{text}'");
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
mod tests {
    use super::super::{MissingCamera, StampSource, Transport};
    use super::*;
    use crate::observe::JointConversion;

    fn texts(texts: &[&str]) -> Value {
        Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// One camera and two joints, with `changes` on top.
    fn read(changes: &[(&str, Value)]) -> Result<Settings, SettingsError> {
        let mut values = BTreeMap::from([
            ("checkpoint".to_owned(), text("model")),
            ("cameras".to_owned(), texts(&["base_0_rgb"])),
            ("camera_topics".to_owned(), texts(&["/top/image_raw"])),
            ("joints".to_owned(), texts(&["waist", "elbow"])),
        ]);
        for (name, value) in changes {
            values.insert((*name).to_owned(), value.clone());
        }
        Settings::from_values(&values)
    }

    fn refusal(changes: &[(&str, Value)]) -> String {
        read(changes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.device, "cpu");
        assert_eq!(settings.control_hz, 50.0);
        assert!(settings.denoise_steps.is_empty() && !settings.require_enable);
        assert_eq!((settings.latency_budget_ms, settings.on_deadline_miss), (50.0, OnDeadlineMiss::Publish));
        assert_eq!(settings.real_time, RealTimeSettings::default());
        assert_eq!(settings.cameras[0].missing, MissingCamera::Wait);
        assert_eq!(settings.normalization, Normalization::Checkpoint);
        assert_eq!(settings.cameras[0].topic.as_deref(), Some("/top/image_raw"));
        assert_eq!(settings.cameras[0].transport, Transport::Raw);
    }

    #[test]
    fn a_camera_without_topic_is_absent() {
        let settings = read(&[
            ("cameras", texts(&["base_0_rgb", "left_wrist_0_rgb"])),
            ("camera_topics", texts(&["/top/image_raw", ""])),
            ("camera_transports", texts(&["compressed", "raw"])),
        ])
        .unwrap();
        assert_eq!(settings.cameras[0].transport, Transport::Compressed);
        assert_eq!(settings.cameras[1].topic, None);
    }

    #[test]
    fn an_integer_is_a_number_too() {
        assert_eq!(read(&[("control_hz", Value::Integer(30))]).unwrap().control_hz, 30.0);
    }

    #[test]
    fn an_empty_list_is_a_list_of_anything() {
        let settings = read(&[("delta_actions", Value::EmptyList), ("camera_transports", Value::EmptyList)]);
        assert!(settings.unwrap().delta_actions.is_empty());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let message = refusal(&[
            ("control_hz", Value::Float(0.0)),
            ("normalization", text("minmax")),
            ("joints", Value::Integer(14)),
            ("sed", Value::Integer(1)),
        ]);
        for expected in [
            "control_hz: must be a number from 0.1 to 1000 (Hz), but is 0.0",
            "normalization: must be a text, each one of: checkpoint, file, none, but is the text \"minmax\"",
            "joints: must be a list of texts, but is 14",
            "sed: there is no such parameter; did you mean 'seed'?",
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn an_unknown_name_unlike_any_other_lists_what_there_is() {
        let message = refusal(&[("frobnicate", text("x"))]);
        assert!(message.contains("there are checkpoint, device, "), "{message}");
    }

    #[test]
    fn parameters_of_every_ros_node_are_not_ours_to_refuse() {
        let name = "qos_overrides./clock.subscription.depth";
        assert!(read(&[("use_sim_time", Value::Other("true")), (name, Value::Integer(1))]).is_ok());
    }

    #[test]
    fn a_missing_checkpoint_says_how_to_give_it() {
        let message = refusal(&[("checkpoint", text(""))]);
        assert!(message.contains("checkpoint: is not set (Checkpoint folder:"), "{message}");
        assert!(message.contains("parameter file or on the command line"), "{message}");
    }

    #[test]
    fn camera_lists_must_have_the_same_length() {
        let message = refusal(&[("cameras", texts(&["base_0_rgb", "left_wrist_0_rgb"]))]);
        assert!(
            message.contains("camera_topics: must have one entry for each of the 2 cameras (base_0_rgb, left_wrist_0_rgb), but has 1"),
            "{message}"
        );
    }

    #[test]
    fn stamps_are_the_headers_unless_the_time_of_arrival_is_wanted() {
        let settings = read(&[]).unwrap();
        assert_eq!(
            (settings.cameras[0].stamps, settings.joint_stamps),
            (StampSource::Header, StampSource::Header)
        );
        let settings =
            read(&[("camera_stamps", texts(&["arrival"])), ("joint_stamps", text("arrival"))]).unwrap();
        assert_eq!(
            (settings.cameras[0].stamps, settings.joint_stamps),
            (StampSource::Arrival, StampSource::Arrival)
        );
        assert!(refusal(&[("camera_stamps", texts(&["sensor"]))]).contains("each one of: header, arrival"));
        let message = refusal(&[("camera_stamps", texts(&["header", "arrival"]))]);
        assert!(
            message.contains("camera_stamps: must have one entry for each of the 1 cameras"),
            "{message}"
        );
    }

    #[test]
    fn names_and_topics_must_not_repeat() {
        let message = refusal(&[("joints", texts(&["waist", "waist"]))]);
        assert!(message.contains("joints: 'waist' stands there more than once"), "{message}");
    }

    #[test]
    fn topics_must_be_topic_names() {
        for topic in ["/top//image", "/top/", "top image", "/1top", "~top", "/"] {
            let message = refusal(&[("joint_states_topic", text(topic))]);
            assert!(message.contains("joint_states_topic: '") && message.contains(topic), "{message}");
        }
        for topic in ["/joint_states", "joint_states", "~/joint_states", "/arm_1/joints"] {
            let settings = read(&[("joint_states_topic", text(topic))]).unwrap();
            assert_eq!(settings.joint_states_topics, [topic]);
        }
        let both =
            read(&[("joint_states_topic", texts(&["/left/joint_states", "/right/joint_states"]))]).unwrap();
        assert_eq!(both.joint_states_topics, ["/left/joint_states", "/right/joint_states"]);
        let message = refusal(&[("joint_states_topic", texts(&["/a", "/a"]))]);
        assert!(message.contains("joint_states_topic: '/a' stands there more than once"), "{message}");
    }

    #[test]
    fn a_statistics_file_is_used_or_refused_but_never_ignored() {
        let file = ("norm_stats", text("stats.json"));
        let settings = read(&[("normalization", text("file")), file.clone()]).unwrap();
        assert_eq!(settings.normalization, Normalization::File("stats.json".into()));
        assert!(refusal(&[file]).contains("would not be used with `normalization: checkpoint`"));
        assert!(refusal(&[("normalization", text("file"))]).contains("norm_stats: is not set"));
    }

    #[test]
    fn a_data_set_is_used_or_refused_but_never_ignored() {
        let data_set = ("norm_stats_dataset", text("so100"));
        let settings = read(std::slice::from_ref(&data_set)).unwrap();
        assert_eq!(settings.normalization, Normalization::DataSet("so100".into()));
        let message = refusal(&[("normalization", text("none")), data_set]);
        assert!(
            message.contains("norm_stats_dataset: would not be used with `normalization: none`"),
            "{message}"
        );
    }

    #[test]
    fn the_dashboard_has_an_address_or_none() {
        let dashboard = |address| read(&[("dashboard", text(address))]).map(|settings| settings.dashboard);
        assert_eq!(dashboard("[::1]:80").unwrap(), Some("[::1]:80".parse().unwrap()));
        assert_eq!(dashboard("").unwrap(), None);
        assert!(dashboard("9464").unwrap_err().to_string().contains("such as 127.0.0.1:9464, but is '9464'"));
    }

    #[test]
    fn denoising_steps_are_sorted_and_must_be_possible() {
        let steps = |steps: &[i64]| read(&[("denoise_steps", Value::Integers(steps.to_vec()))]);
        assert_eq!(steps(&[5, 10, 8, 10]).unwrap().denoise_steps, [10, 8, 5]);
        let message = refusal(&[("denoise_steps", Value::Integers(vec![10, 0]))]);
        let expected =
            "denoise_steps: must be a list of integers, each from 1 to 1000 (steps), but is the list [10, 0]";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn units_have_one_entry_per_joint_and_no_scale_is_0() {
        let scale = |scale: &[f64]| ("joint_scale", Value::Floats(scale.to_vec()));
        assert_eq!(read(&[scale(&[57.3, -1.0])]).unwrap().joint_scale, [57.3, -1.0]);
        assert!(
            refusal(&[scale(&[1.0])]).contains("joint_scale: must have one entry for each of the 2 joints")
        );
        assert!(refusal(&[scale(&[1.0, 0.0])]).contains("joint_scale: is 0 for joint 1 (counted from 0)"));
        let conversion = |names: &[&str]| ("joint_conversion", texts(names));
        let given = read(&[conversion(&["linear", "aloha_gripper"])]).unwrap();
        assert_eq!(given.joint_conversion, [JointConversion::Linear, JointConversion::AlohaGripper]);
        assert!(refusal(&[conversion(&["linear", "spline"])]).contains("each one of: linear, aloha_gripper"));
        assert!(refusal(&[conversion(&["linear"])]).contains("joint_conversion: must have one entry"));
    }

    #[test]
    fn limits_have_one_number_per_joint() {
        let floats = |floats: &[f64]| Value::Floats(floats.to_vec());
        let given = read(&[
            ("joint_position_min", Value::Integers(vec![-1, -2])),
            ("joint_step_max", floats(&[0.1, 0.2])),
        ]);
        let limits = given.unwrap().limits;
        assert_eq!((limits.position_min, limits.step_max), (vec![-1.0, -2.0], vec![0.1, 0.2]));
        let message = refusal(&[
            ("joint_velocity_max", floats(&[1.0])),
            ("joint_position_min", floats(&[0.0, 1.0])),
            ("joint_position_max", floats(&[1.0, 0.0])),
            ("joint_step_max", floats(&[f64::NAN, 1.0])),
        ]);
        for expected in [
            "joint_velocity_max: must have one number for each of the 2 joints, but has 1",
            "joint_position_max: is below joint_position_min for joint 1",
            "joint_step_max: must be a list of numbers, each from",
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_must_be_true_or_false_says_so() {
        assert!(read(&[("require_enable", Value::Bool(true))]).unwrap().require_enable);
        let message = refusal(&[("require_enable", text("yes"))]);
        assert!(
            message.contains("require_enable: must be true or false, but is the text \"yes\""),
            "{message}"
        );
    }

    #[test]
    fn not_a_number_is_out_of_any_range() {
        assert!(refusal(&[("diagnostics_hz", Value::Float(f64::NAN))]).contains("diagnostics_hz"));
    }
}
