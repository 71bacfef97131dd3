//! A robot for the dashboard to show: what a control loop would have recorded, without a model. Used by the dashboard's
//! tests.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pi0_node::control::{Chunk, Monitor};
use pi0_node::dashboard::{Dashboard, DashboardError, Sources};
use pi0_node::observe::messages::Stamp;
use pi0_node::settings::{Settings, Value};
use pi0_node::telemetry::{CycleRecord, CycleResult, DropReason, Metrics, Stage};

pub const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
const HORIZON: usize = 50;

pub struct FakeRobot {
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    chunk: Arc<Mutex<Option<Chunk>>>,
    cycles: u64,
}

impl FakeRobot {
    pub fn new() -> Self {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        let parts = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"];
        let joints: Vec<String> =
            ["left", "right"].iter().flat_map(|side| parts.map(|part| format!("{side}_{part}"))).collect();
        let values = BTreeMap::from([
            ("checkpoint".to_owned(), Value::Text("mini".into())),
            ("camera_topics".to_owned(), texts(&["/top", "/left", "/right"])),
            ("joints".to_owned(), Value::Texts(joints)),
        ]);
        Self {
            metrics: Arc::new(Metrics::new(CAMERAS)),
            settings: Settings::from_values(&values).unwrap(),
            chunk: Arc::default(),
            cycles: 0,
        }
    }

    pub fn sources(&self) -> Sources {
        let model = "mini: 10 denoising steps, chunks of 50 points";
        let chunk = Arc::clone(&self.chunk);
        Sources {
            monitor: Monitor::new(Arc::clone(&self.metrics), "cpu (2 threads, avx512bf16, bf16)", model),
            settings: self.settings.clone(),
            chunk: Box::new(move || chunk.lock().unwrap().clone()),
        }
    }

    /// The dashboard on a free port.
    pub fn dashboard(&self) -> Dashboard {
        self.dashboard_at("127.0.0.1:0").unwrap()
    }

    pub fn dashboard_at(&self, address: &str) -> Result<Dashboard, DashboardError> {
        Dashboard::start(address.parse().unwrap(), self.sources())
    }

    /// A message of every sensor.
    pub fn receive(&self) {
        for sensor in &self.metrics.cameras {
            let _ = self.metrics.received(sensor, ago(self.noise(0.3, 0.2)), Ok::<_, String>(()));
        }
        for _ in 0..3 {
            let _ = self.metrics.received(&self.metrics.joints, ago(0.004), Ok::<_, String>(()));
        }
    }

    /// A cycle that takes about 38 ms from observation to chunk, or `delay_ms` longer in *act*; beyond the budget it is
    /// late by that stage.
    pub fn cycle(&mut self, delay_ms: f64) {
        let mut record = CycleRecord::default();
        let parts = [
            (Stage::Write, self.noise(0.25, 0.1)),
            (Stage::Perceive, self.noise(16.0, 3.0)),
            (Stage::Act, self.noise(9.0, 2.0) + delay_ms),
            (Stage::DecodeActions, self.noise(0.02, 0.01)),
        ];
        for (stage, ms) in parts {
            record.set(stage, self.metrics.time(stage, ago(ms)));
        }
        let cycle_ms: f64 = parts.iter().map(|(_, ms)| ms).sum();
        record.set(Stage::Cycle, self.metrics.time(Stage::Cycle, ago(cycle_ms)));
        let age_ms = cycle_ms + self.noise(9.0, 4.0);
        record.set(Stage::Age, self.metrics.age(age_ms));
        if age_ms > self.settings.latency_budget_ms {
            record.missed = Some(Stage::Act);
        }
        self.metrics.frame_sets.add_one();
        self.metrics.chunks.add_one();
        self.metrics.cycle_finished(&record);
        *self.chunk.lock().unwrap() = Some(self.chunk());
        self.cycles += 1;
    }

    /// A cycle that gives no chunk.
    pub fn dropped(&mut self, reason: DropReason) {
        let mut record = CycleRecord::default();
        record.result = CycleResult::Dropped(reason);
        record.set(Stage::Perceive, self.metrics.time(Stage::Perceive, ago(16.0)));
        self.metrics.frame_sets.add_one();
        self.metrics.dropped(reason);
        self.metrics.cycle_finished(&record);
        self.cycles += 1;
    }

    fn chunk(&self) -> Chunk {
        let joints = self.settings.joints.len();
        let time = self.cycles as f64 / 30.0;
        let position = |point: usize, joint: usize| {
            let (at, joint) = (time + point as f64 / 50.0, joint as f64);
            (at * (0.6 + 0.11 * joint) + joint).sin() * (1.2 - 0.07 * joint)
        };
        Chunk {
            observation: Stamp((time * 1e9) as i64),
            joint_stamp: Stamp(0),
            sequence: self.cycles,
            horizon: HORIZON,
            joints,
            actions: (0..HORIZON * joints).map(|i| position(i / joints, i % joints)).collect(),
            control_hz: self.settings.control_hz,
        }
    }

    /// Around `ms`, seldom far above it; the same in every run.
    fn noise(&self, ms: f64, spread: f64) -> f64 {
        let uniform = |salt: u64| {
            let mixed = (self.cycles * 31 + salt + ms.to_bits() % 97).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 40) as f64 / (1 << 24) as f64
        };
        let tail = if uniform(7) > 0.99 { uniform(11) * 2.0 } else { 0.0 };
        ms + spread * (uniform(1) + uniform(2) + uniform(3) - 1.5 + tail)
    }
}

fn ago(ms: f64) -> Instant {
    Instant::now() - Duration::from_secs_f64(ms.max(0.0) / 1e3)
}
