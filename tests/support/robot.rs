//! A small robot with one camera and two joints, and a random policy for it. Used by the tests of the control loop.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::path::Path;
use std::sync::LazyLock;

use pi0_node::control::Wiring;
use pi0_node::device::cpu::Precision;
use pi0_node::graph::WeightFormat;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::observe::write_small_tokenizer;
use pi0_node::policy::checkpoint::init::write_random;
use pi0_node::policy::{PolicyConfig, Schedule};
use pi0_node::settings::{
    Camera, ChunkJoin, Interpolation, LimitSettings, MissingCamera, Normalization, OnDeadlineMiss,
    RealTimeSettings, Rtc, Settings, StampSource, Transport,
};

static PIXELS: [u8; 60 * 40 * 3] = [100; 60 * 40 * 3];

/// A checkpoint of the smallest size in `folder`.
pub fn write_checkpoint(folder: &Path) {
    write_checkpoint_of(folder, &PolicyConfig::TINY);
}

/// A checkpoint of any model in `folder`.
pub fn write_checkpoint_of(folder: &Path, config: &PolicyConfig) {
    write_random(folder, config, 1, WeightFormat::BF16, &|_| {}).unwrap();
    write_small_tokenizer(&folder.join("tokenizer.json"), config.vocabulary).unwrap();
}

/// The robot's settings with the checkpoint in `folder`: one camera is there, one is absent.
pub fn settings(folder: &Path) -> Settings {
    let camera = |name: &str, topic: Option<&str>| Camera {
        name: name.into(),
        topic: topic.map(str::to_owned),
        transport: Transport::Raw,
        missing: MissingCamera::Wait,
        stamps: StampSource::Header,
    };
    Settings {
        checkpoint: folder.into(),
        device: "cpu".into(),
        precision: Precision::F32,
        threads: 2,
        cuda_libraries: None,
        tenstorrent: Default::default(),
        seed: 1,
        cameras: vec![camera("base_0_rgb", Some("/top")), camera("left_wrist_0_rgb", None)],
        joint_states_topics: vec!["/joint_states".into()],
        joint_stamps: StampSource::Header,
        joints: vec!["waist".into(), "elbow".into()],
        joint_scale: Vec::new(),
        joint_offset: Vec::new(),
        joint_conversion: Vec::new(),
        prompt: "go".into(),
        tokenizer: None,
        normalization: Normalization::None,
        delta_actions: vec![1, -1],
        velocity_step: Vec::new(),
        control_hz: 50.0,
        sync_tolerance_ms: 10.0,
        denoise_steps: Vec::new(),
        sensor_timeout_ms: 500.0,
        max_image_age_ms: 500.0,
        max_joint_age_ms: 500.0,
        latency_budget_ms: 50.0,
        on_deadline_miss: OnDeadlineMiss::Publish,
        act_rate_hz: 0.0,
        chunk_join: ChunkJoin::Replace,
        rtc: Rtc { horizon: 10, schedule: Schedule::Linear, most_guidance: 10.0, delay_ms: None },
        interpolation: Interpolation::Linear,
        outputs: Vec::new(),
        stream_hz: 100.0,
        limits: LimitSettings::default(),
        require_enable: false,
        watchdog_ms: 60_000.0,
        real_time: RealTimeSettings::default(),
        diagnostics_hz: 1.0,
        dashboard: None,
        latency_folder: None,
    }
}

pub fn stamp_ms(ms: i64) -> Stamp {
    Stamp(ms * 1_000_000)
}

/// A frame of the camera.
pub fn image(stamp: Stamp) -> Image<'static> {
    Image::rgb8(stamp, (40, 60), &PIXELS)
}

/// A joint state, in another order than the model's.
pub fn joint_state(stamp: Stamp) -> JointState<'static> {
    static NAMES: LazyLock<[String; 2]> = LazyLock::new(|| ["elbow".into(), "waist".into()]);
    JointState { stamp, names: &*NAMES, positions: &[0.2, 0.1] }
}

pub fn put_image(wiring: &mut Wiring, ms: i64) {
    wiring.cameras[0].put_image(&image(stamp_ms(ms)), stamp_ms(ms)).unwrap();
}

/// A joint state, received when it was made.
pub fn put_joints(wiring: &mut Wiring, ms: i64) {
    let stamp = stamp_ms(ms);
    wiring.joints.put(&joint_state(stamp), stamp).unwrap();
}

/// A joint state with the waist here and the elbow there.
pub fn put_positions(wiring: &mut Wiring, ms: i64, positions: [f64; 2]) {
    let [waist, elbow] = positions;
    let state = JointState { positions: &[elbow, waist], ..joint_state(stamp_ms(ms)) };
    wiring.joints.put(&state, stamp_ms(ms)).unwrap();
}
