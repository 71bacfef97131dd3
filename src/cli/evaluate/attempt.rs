//! One attempt at the task: the loop looks, thinks for as long as the latency says, and the robot follows what it sends. Called by
//! `evaluate`.
//!
//! Everything happens at the robot's control ticks. The robot follows the chunk as ros2_control does, which is what the node takes for
//! granted (`control::Motion`).

use anyhow::{Context, bail};
use serde::Serialize;

use super::simulator::{Scene, Simulator};
use crate::control::{self, Outcome, Wiring};
use crate::device::Silent;
use crate::observe::messages::{Image, JointState, Stamp};
use crate::settings::Settings;

/// The robot's control step.
const TICK_NS: i64 = 20_000_000;
/// Attempts begin so far apart, so that none has another's noise: that depends on the observation's time.
const APART_NS: i64 = 1_000_000_000_000;
/// The last stage of the task.
pub const DONE: usize = 4;
/// What counts of the grippers: they are to close fast.
const GRIPPER: &str = "gripper";

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Attempted {
    pub seed: u64,
    /// The best stage, 0 to 4.
    pub stage: usize,
    /// When the task was done, if it was.
    pub done_s: Option<f64>,
    pub chunks: u64,
    /// Joint states and images that the loop made nothing of, as it tells in its counters.
    pub dropped: u64,
    /// The largest step of an arm's joint from where it was to be to where a new chunk has it at that moment, rad.
    pub jump: f64,
    /// Root of the mean square of the jerk that the arms' joints are told, of all ticks, rad/s^3.
    pub jerk: f64,
    /// The same of the ticks at which a new chunk begins.
    pub join_jerk: f64,
}

/// How often the cameras look, and how long an attempt may take.
#[derive(Clone, Copy)]
pub struct Pace {
    pub camera_hz: u32,
    pub seconds: u32,
}

/// A loop of its own: nothing is left of the attempt before.
pub struct Attempt {
    wiring: Wiring,
    names: Vec<String>,
    cameras: Vec<String>,
    start: Stamp,
}

impl Attempt {
    pub fn new(settings: &Settings, number: u64) -> anyhow::Result<Self> {
        let wiring = control::assemble(settings, &Silent)?;
        wiring.enable.set(true);
        let cameras = wiring.cameras.iter().map(|camera| scene_camera(camera.topic())).collect();
        let start = Stamp((number as i64 + 1).saturating_mul(APART_NS));
        Ok(Self { wiring, names: settings.joints.clone(), cameras, start })
    }

    /// Until the task is done or `seconds` are over.
    pub fn run(
        &mut self,
        simulator: &mut Simulator,
        settings: &Settings,
        seed: u64,
        latency_ms: u64,
        Pace { camera_hz, seconds }: Pace,
    ) -> anyhow::Result<Attempted> {
        let mut scene = simulator.begin(seed)?;
        let latency_ns = latency_ms as i64 * 1_000_000;
        let between_images = (1_000_000_000 / i64::from(camera_hz) + TICK_NS / 2) / TICK_NS * TICK_NS;
        let mut told = self.in_order(&scene)?;
        let mut path = Path::new(&self.names);
        let (mut leaves, mut looked) = (None, None);
        let mut attempted = Attempted {
            seed,
            stage: 0,
            done_s: None,
            chunks: 0,
            dropped: 0,
            jump: 0.0,
            jerk: 0.0,
            join_jerk: 0.0,
        };
        for tick in 0..i64::from(seconds) * 1_000_000_000 / TICK_NS {
            let now = Stamp(self.start.0 + tick * TICK_NS);
            attempted.dropped += u64::from(!self.put_joints(&scene, now));
            let mut joined = self.send(&mut leaves, now, &mut attempted);
            if leaves.is_none() && looked.is_none_or(|last: Stamp| now.0 - last.0 >= between_images) {
                looked = Some(now);
                match self.look(simulator, now)? {
                    Outcome::Chunk => leaves = Some(Stamp(now.0 + latency_ns)),
                    _ => attempted.dropped += 1,
                }
                joined |= self.send(&mut leaves, now, &mut attempted);
            }
            let next = Stamp(now.0 + TICK_NS);
            if attempted.chunks > 0 {
                let motion = self.wiring.chunks.motion();
                told.iter_mut().enumerate().for_each(|(joint, told)| *told = motion.position_at(joint, next));
            }
            path.add(&told, joined);
            scene = simulator.advance(&self.to_robot(&scene, &told))?;
            attempted.stage = scene.stage;
            if scene.stage == DONE {
                attempted.done_s = Some(next.ms_since(self.start) / 1e3);
                break;
            }
        }
        if attempted.chunks == 0 {
            let snapshot = self.wiring.monitor.snapshot();
            bail!("the loop made no chunk: {}", control::why_no_chunk(&snapshot, settings));
        }
        (attempted.jerk, attempted.join_jerk) = path.jerk();
        Ok(attempted)
    }

    /// The chunk leaves if its time has come; whether one did.
    fn send(&mut self, leaves: &mut Option<Stamp>, now: Stamp, attempted: &mut Attempted) -> bool {
        let Some(at) = leaves.filter(|at| *at <= now) else { return false };
        *leaves = None;
        let Wiring { chunks, .. } = &mut self.wiring;
        let before = (attempted.chunks > 0).then(|| chunks.motion().clone());
        let Some(chunk) = chunks.try_recv(at) else { return false };
        attempted.chunks += 1;
        if let (Some(before), Some((point, row))) = (before, chunk.points().next()) {
            let arms = self.names.iter().enumerate().filter(|(_, name)| !name.contains(GRIPPER));
            let jumps =
                arms.map(|(joint, _)| (row[joint] - before.position_at(joint, chunk.time_of(point))).abs());
            attempted.jump = jumps.fold(attempted.jump, f64::max);
        }
        true
    }

    /// Whether the loop could use them.
    fn put_joints(&mut self, scene: &Scene, now: Stamp) -> bool {
        let state = JointState { stamp: now, names: &scene.names, positions: &scene.positions };
        self.wiring.joints.put(&state, now).is_ok()
    }

    /// The cameras' images, and the cycle that they begin.
    fn look(&mut self, simulator: &mut Simulator, now: Stamp) -> anyhow::Result<Outcome> {
        let cameras: Vec<&str> = self.cameras.iter().map(String::as_str).collect();
        let pictures = simulator.draw(&cameras)?;
        let size = (pictures.height, pictures.width);
        let images = pictures.bytes.chunks_exact(size.0 as usize * size.1 as usize * 3);
        for (camera, pixels) in self.wiring.cameras.iter_mut().zip(images) {
            camera.put_image(&Image::rgb8(now, size, pixels), now)?;
        }
        Ok(self.wiring.cycle.step(now))
    }

    /// The scene's joints in the settings' order.
    fn in_order(&self, scene: &Scene) -> anyhow::Result<Vec<f64>> {
        let position = |name: &String| {
            let index = scene.names.iter().position(|other| other == name);
            index.and_then(|index| scene.positions.get(index).copied())
        };
        let found = self.names.iter().map(|name| {
            position(name).with_context(|| {
                format!("the simulated robot has no joint '{name}'; it has {:?}", scene.names)
            })
        });
        found.collect()
    }

    /// Positions in the scene's order; joints that nobody moves stay where they are.
    fn to_robot(&self, scene: &Scene, told: &[f64]) -> Vec<f64> {
        let names = scene.names.iter().zip(&scene.positions);
        let of = |(name, here): (&String, &f64)| {
            self.names.iter().position(|other| other == name).map_or(*here, |joint| told[joint])
        };
        names.map(of).collect()
    }
}

/// `/top/image_raw` is the camera `top` of the scene.
fn scene_camera(topic: &str) -> String {
    topic.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned()
}

/// What the arms' joints were told, tick by tick.
struct Path {
    arms: Vec<usize>,
    told: Vec<Vec<f64>>,
    joins: Vec<usize>,
}

impl Path {
    fn new(names: &[String]) -> Self {
        let arms = (0..names.len()).filter(|&joint| !names[joint].contains(GRIPPER)).collect();
        Self { arms, told: Vec::new(), joins: Vec::new() }
    }

    fn add(&mut self, told: &[f64], joined: bool) {
        if joined {
            self.joins.push(self.told.len());
        }
        self.told.push(self.arms.iter().map(|&joint| told[joint]).collect());
    }

    /// Roots of the mean squares of third differences, rad/s^3: of all ticks, and of those that a join's first tick is part of; without
    /// the first chunk, which has nothing to continue.
    fn jerk(&self) -> (f64, f64) {
        let seconds = TICK_NS as f64 / 1e9;
        let squares: Vec<f64> = self
            .told
            .windows(4)
            .map(|w| {
                let joints = 0..self.arms.len();
                let thirds =
                    joints.map(|j| (w[3][j] - 3.0 * w[2][j] + 3.0 * w[1][j] - w[0][j]) / seconds.powi(3));
                thirds.map(|third| third * third).sum::<f64>() / self.arms.len().max(1) as f64
            })
            .collect();
        let first = self.joins.first().map_or(0, |first| first + 1);
        let root = |values: Vec<f64>| (values.iter().sum::<f64>() / values.len().max(1) as f64).sqrt();
        let at_joins =
            |window: &usize| self.joins[1..].iter().any(|join| (*window..*window + 4).contains(join));
        let all: Vec<usize> = (first..squares.len()).collect();
        let joins: Vec<usize> =
            if self.joins.is_empty() { Vec::new() } else { all.iter().copied().filter(at_joins).collect() };
        let of = |windows: Vec<usize>| root(windows.into_iter().map(|window| squares[window]).collect());
        (of(all), of(joins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(told: &[f64], joins: &[usize]) -> Path {
        let mut path = Path::new(&["left_waist".into(), "left_gripper".into()]);
        for (tick, position) in told.iter().enumerate() {
            path.add(&[*position, 1.0 - (tick % 2) as f64], joins.contains(&tick));
        }
        path
    }

    #[test]
    fn jerk_is_of_the_arms_alone_and_not_of_the_first_chunk() {
        let still: Vec<f64> = (0..20).map(|tick| 0.01 * f64::from(tick)).collect();
        let (all, joins) = path(&still, &[0, 5, 10]).jerk();
        assert!(all < 1e-6 && joins < 1e-6);
        // A step of 8 mrad at the join: thirds of 1, -2 and 1 times 1000 rad/s^3.
        let step =
            |from: i32| (0..20).map(|tick| if tick < from { 0.0 } else { 0.008 }).collect::<Vec<f64>>();
        let (all, joins) = path(&step(10), &[0, 10]).jerk();
        assert!((joins - (6e6f64 / 4.0).sqrt()).abs() < 1e-3, "{joins}");
        assert!((all - (6e6f64 / 16.0).sqrt()).abs() < 1e-3, "{all}");
        assert_eq!(path(&step(0), &[]).jerk(), (0.0, 0.0));
    }

    #[test]
    fn a_topic_names_the_scenes_camera() {
        assert_eq!(scene_camera("/top/image_raw"), "top");
        assert_eq!(scene_camera("/left_wrist/image_raw/compressed"), "left_wrist");
    }
}
