//! `/api/status` and `/api/chunk`: what the counters tell, and the last chunk joint by joint. Made by `watch`.

use serde::Serialize;

use super::Sources;
use super::state::Condition;
use super::watch::Counted;
use crate::control;
use crate::telemetry::{DropReason, SensorSnapshot, Stage};

/// The answer of `/api/status`.
#[derive(Serialize)]
pub struct Status {
    node: Node,
    pub condition: Condition,
    sensors: Vec<Sensor>,
    frame_sets: u64,
    frame_sets_hz: f64,
    chunks: u64,
    chunks_hz: f64,
    joins: Joins,
    dropped: Vec<Count>,
    missed: Vec<Count>,
    /// What `recent` counts are over.
    recent_s: f64,
    last_error: Option<String>,
    task_outcome: Option<String>,
}

#[derive(Serialize)]
struct Node {
    version: &'static str,
    device: String,
    model: String,
    uptime_s: f64,
    budget_ms: f64,
}

/// How the last chunks followed each other; positions are in the robot's units.
#[derive(Serialize)]
struct Joins {
    /// Chunks that continue what was sent before them.
    led: u64,
    /// Those of them that left later than they assumed.
    led_late: u64,
    assumed_delay_ms: f64,
    delay_ms: f64,
    mismatch: f64,
    jump: f64,
    joined_jump: f64,
}

#[derive(Serialize)]
struct Sensor {
    name: String,
    /// `ok`, `silent`, or `never` when nothing has come at all.
    level: &'static str,
    rate_hz: f64,
    age_ms: Option<f64>,
    received: u64,
    refused: u64,
    /// What is wrong although messages come, and which setting helps.
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Count {
    name: &'static str,
    total: u64,
    recent: u64,
}

impl Status {
    /// The present beside the counters a few seconds ago (`rate`) and a minute ago (`recent`).
    pub fn new(
        sources: &Sources,
        now: &Counted,
        rate: &Counted,
        recent: &Counted,
        condition: Condition,
    ) -> Self {
        let seconds = now.at.saturating_sub(rate.at).as_secs_f64();
        // Too soon after the start, a rate says nothing.
        let per_second = |now: u64, before: u64| match seconds {
            0.2.. => round(now.saturating_sub(before) as f64 / seconds, 100.0),
            _ => 0.0,
        };
        let (counts, before) = (&now.counts, &rate.counts);
        let settings = sources.settings.get();
        let sensor =
            |((now, before), trouble): ((&SensorSnapshot, &SensorSnapshot), Option<String>)| Sensor {
                trouble,
                name: now.name.clone(),
                level: match now.age_ms {
                    None => "never",
                    Some(age_ms) if age_ms > settings.sensor_timeout_ms => "silent",
                    Some(_) => "ok",
                },
                rate_hz: per_second(now.received, before.received),
                age_ms: now.age_ms.map(|ms| round(ms, 10.0)),
                received: now.received,
                refused: now.refused,
            };
        let with_topic = settings.cameras.iter().filter(|camera| camera.topic.is_some());
        let cameras = counts.cameras.iter().zip(&before.cameras).zip(with_topic);
        let cameras = cameras.map(|((now, before), camera)| {
            ((now, before), control::camera_stamp_trouble(now, camera, &settings))
        });
        let missing = counts.missing_joints.clone().filter(|_| counts.joints.received > 0);
        let trouble = missing.or_else(|| control::joint_stamp_trouble(&counts.joints, &settings));
        let joints = ((&counts.joints, &before.joints), trouble);
        let count =
            |name, total: u64, before: u64| Count { name, total, recent: total.saturating_sub(before) };
        let past = &recent.counts;
        Self {
            node: Node {
                version: env!("CARGO_PKG_VERSION"),
                device: sources.monitor.device().to_owned(),
                model: sources.monitor.model().to_owned(),
                uptime_s: round(now.at.as_secs_f64(), 10.0),
                budget_ms: settings.latency_budget_ms,
            },
            condition,
            sensors: cameras.chain([joints]).map(sensor).collect(),
            frame_sets: counts.frame_sets,
            frame_sets_hz: per_second(counts.frame_sets, before.frame_sets),
            chunks: counts.chunks,
            chunks_hz: per_second(counts.chunks, before.chunks),
            joins: Joins {
                led: counts.joins.led,
                led_late: counts.joins.led_late,
                assumed_delay_ms: round(counts.joins.assumed_delay_ms, 10.0),
                delay_ms: round(counts.joins.delay_ms, 10.0),
                mismatch: round(counts.joins.mismatch, 1e5),
                jump: round(counts.joins.jump, 1e5),
                joined_jump: round(counts.joins.joined_jump, 1e5),
            },
            dropped: DropReason::ALL
                .map(|reason| count(reason.name(), counts.dropped(reason), past.dropped(reason)))
                .into(),
            missed: Stage::ALL
                .map(|stage| count(stage.name(), counts.missed(stage), past.missed(stage)))
                .into(),
            recent_s: round(now.at.saturating_sub(recent.at).as_secs_f64(), 10.0),
            last_error: counts.last_error.clone(),
            task_outcome: counts.task_outcome.clone(),
        }
    }
}

/// The answer of `/api/chunk`.
#[derive(Serialize)]
pub struct Chunk {
    sequence: u64,
    /// Seconds on the clock of the messages' stamps.
    observation: String,
    control_hz: f64,
    /// The number of its first point: those before were past when it was sent.
    first: usize,
    /// Why the robot is told to stay where it is, if it is.
    hold: Option<&'static str>,
    joints: Vec<Joint>,
}

#[derive(Serialize)]
struct Joint {
    name: String,
    /// Point by point, in the units of the joint states.
    positions: Vec<f64>,
}

impl Chunk {
    /// `names` are those of the chunk's columns.
    pub fn new(chunk: &control::Chunk, names: &[String]) -> Self {
        let position = |point: &[f64], joint: usize| point.get(joint).map(|&position| round(position, 1e5));
        let column = |joint| chunk.points().filter_map(|(_, point)| position(point, joint)).collect();
        let joints = names.iter().take(chunk.joints).enumerate();
        Self {
            sequence: chunk.sequence,
            observation: chunk.observation.to_string(),
            control_hz: chunk.control_hz,
            first: chunk.first,
            hold: chunk.hold.map(DropReason::name),
            joints: joints
                .map(|(joint, name)| Joint { name: name.clone(), positions: column(joint) })
                .collect(),
        }
    }
}

/// To the nearest 1/`parts`: what more digits say is noise.
pub fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}
