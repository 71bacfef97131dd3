//! A robot for the dashboard to show: what a control loop would have recorded, without a model. Used by the dashboard's
//! tests.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pi0_node::control::{Chunk, Monitor, Phase, Shared};
use pi0_node::dashboard::{Dashboard, DashboardError, Sources};
use pi0_node::observe::messages::Stamp;
use pi0_node::settings::{Settings, Value};
use pi0_node::telemetry::{CycleRecord, DropReason, Metrics, Stage};

pub const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
const HORIZON: usize = 50;

pub struct FakeRobot {
    pub metrics: Arc<Metrics>,
    pub state: Arc<Shared>,
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
            state: Arc::new(Shared::new(60_000.0, true)),
            settings: Settings::from_values(&values).unwrap(),
            chunk: Arc::default(),
            cycles: 0,
        }
    }

    pub fn sources(&self) -> Sources {
        let device = "cpu (2 threads, avx512bf16, bf16)";
        let model = "mini, 10 denoising steps, chunks of 50 points";
        let (metrics, state) = (Arc::clone(&self.metrics), Arc::clone(&self.state));
        let chunk = Arc::clone(&self.chunk);
        Sources {
            monitor: Monitor::new(metrics, state, device, model),
            settings: self.settings.clone().into(),
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

    /// A cycle that takes about 35 ms from observation to chunk, or `delay_ms` longer in *act*; beyond the budget it is
    /// late by that stage.
    pub fn cycle(&mut self, delay_ms: f64) {
        let usual = |stage| match stage {
            Stage::Transport => (3.0, 1.2),
            Stage::Decode => (0.3, 0.2),
            Stage::SyncWait => (5.0, 3.0),
            Stage::Write => (0.25, 0.1),
            Stage::Perceive => (16.0, 3.0),
            Stage::Act => (9.0, 2.0),
            Stage::Publish => (0.15, 0.1),
            _ => (0.02, 0.01),
        };
        let mut record = CycleRecord::default();
        let mut age_ms = 0.0;
        for stage in Stage::ALL.into_iter().filter(|stage| stage.adds_up()) {
            let (ms, spread) = usual(stage);
            let ms = self.noise(ms, spread) + if stage == Stage::Act { delay_ms } else { 0.0 };
            record.set(stage, self.metrics.time(stage, ago(ms)));
            age_ms += ms;
        }
        for (stage, ms, spread) in [
            (Stage::Siglip, 6.4, 1.0),
            (Stage::Prefix, 9.6, 1.6),
            (Stage::DenoiseStep, 0.9, 0.2),
            (Stage::Cycle, 25.4, 4.0),
            (Stage::BeforeDevice, 1.3, 0.3),
            (Stage::AfterDevice, 0.2, 0.1),
            (Stage::Overhead, 1.5, 0.4),
            (Stage::Jitter, 0.6, 0.8),
        ] {
            self.metrics.time(stage, ago(self.noise(ms, spread)));
        }
        record.set(Stage::Age, self.metrics.age(age_ms));
        if age_ms > self.settings.latency_budget_ms {
            record.missed = Some(Stage::Act);
            self.metrics.missed(Stage::Act);
        }
        self.metrics.frame_sets.add_one();
        self.metrics.chunks.add_one();
        self.metrics.cycle_finished(&record);
        *self.chunk.lock().unwrap() = Some(self.chunk());
        self.state.beat();
        self.state.sent(Duration::from_micros(150));
        self.state.set(Phase::Running, None);
        self.cycles += 1;
    }

    /// A cycle that gives no chunk.
    pub fn dropped(&mut self, reason: DropReason) {
        self.metrics.frame_sets.add_one();
        self.metrics.dropped(reason);
        self.metrics.cycle_finished(&CycleRecord::dropped(reason));
        self.state.beat();
        self.state.set(Phase::Waiting, Some(reason));
        self.cycles += 1;
    }

    fn chunk(&self) -> Chunk {
        let joints = self.settings.joints.len();
        let time = self.cycles as f64 / 30.0;
        let position = |point: usize, joint: usize| {
            let (at, joint) = (time + point as f64 / 50.0, joint as f64);
            (at * (0.6 + 0.11 * joint) + joint).sin() * (1.2 - 0.07 * joint)
        };
        let mut chunk = Chunk::new(HORIZON, joints, self.settings.control_hz);
        chunk.observation = Stamp((time * 1e9) as i64);
        chunk.sequence = self.cycles;
        chunk.first = 2;
        chunk.actions = (0..HORIZON * joints).map(|i| position(i / joints, i % joints)).collect();
        chunk
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
