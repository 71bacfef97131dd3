//! The streams: what robots are sent that take positions instead of trajectories. Whatever the chunks are, whatever the clock
//! does and however late the ticks come, nothing is beyond the limits, nothing jumps, and time does not run backwards.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/robot.rs"]
mod robot;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use faulty::{Faults, robot_on};
use pi0_node::control::{Outcome, Pace, Tick, TickState, Wiring};
use pi0_node::observe::messages::{JointState, Stamp};
use pi0_node::settings::{ChunkJoin, Interpolation, Output, OutputKind, Settings};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use robot::{image, stamp_ms};

const PERIOD_NS: i64 = 10_000_000;
/// The robot's chunks: 50 points, 20 ms apart.
const CONTROL_HZ: f64 = 50.0;

/// Both joints as a stream of 100 Hz.
fn streamed(settings: &mut Settings) {
    let kind = OutputKind::Positions;
    let output = Output { name: "arm".into(), topic: "/arm/commands".into(), kind, joints: vec![0, 1] };
    (settings.outputs, settings.stream_hz) = (vec![output], 100.0);
    settings.latency_budget_ms = 500.0;
}

/// What a tick sent.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    at: Stamp,
    state: TickState,
    positions: [f64; 2],
}

fn tick(wiring: &mut Wiring, now: Stamp) -> Option<Sent> {
    let mut sent = None;
    let keep = |tick: &Tick| {
        sent =
            Some(Sent { at: tick.at, state: tick.state, positions: [tick.positions[0], tick.positions[1]] });
    };
    assert_eq!(wiring.stream.as_mut().unwrap().tick(now, keep), sent.is_some());
    sent
}

/// A chunk of an observation of now that leaves now; the joints stand at `measured`. Whether it was sent; an observation of a
/// time before the last one's gives none.
fn chunk(wiring: &mut Wiring, now: Stamp, measured: [f64; 2]) -> bool {
    let names = ["waist".to_owned(), "elbow".to_owned()];
    wiring.cameras[0].put_image(&image(now), now).unwrap();
    let state = JointState { stamp: now, names: &names, positions: &measured };
    wiring.joints.put(&state, now).unwrap();
    wiring.cycle.step(now) == Outcome::Chunk && wiring.chunks.try_recv(now).is_some()
}

#[test]
fn a_stream_begins_where_the_robot_is_follows_the_chunk_by_the_clock_and_stays_at_its_end() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, streamed);
    assert_eq!(tick(&mut wiring, stamp_ms(1000)), None, "there is nothing to follow");
    faults.act(0.3);
    assert!(chunk(&mut wiring, stamp_ms(1000), [0.1, 0.2]));
    let first = tick(&mut wiring, stamp_ms(1000)).unwrap();
    assert_eq!((first.state, first.positions), (TickState::First, [0.1, 0.2]));
    // The point that is due now is not jumped to: the next one is 20 ms away.
    let next = tick(&mut wiring, stamp_ms(1010)).unwrap();
    assert_eq!(next.state, TickState::Following);
    let close =
        |found: f64, expected: f64| assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    close(next.positions[0], 0.2);
    close(next.positions[1], 0.25);
    for ms in (1020..2500).step_by(10) {
        let sent = tick(&mut wiring, stamp_ms(ms)).unwrap();
        close(sent.positions[0], 0.3);
    }
}

#[test]
fn it_stops_at_once_when_nobody_may_move_the_robot_and_begins_anew_where_the_robot_is_then() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, streamed);
    faults.act(0.3);
    let enable: fn(&Wiring, bool) = |wiring, go| wiring.enable.set(go);
    let activate: fn(&Wiring, bool) = |wiring, go| wiring.enable.set_active(go);
    for (start_ms, stop) in [(1000_i64, enable), (3000, activate)] {
        let at = |ms| stamp_ms(start_ms + ms);
        assert!(chunk(&mut wiring, at(0), [0.1, 0.1]));
        assert!(tick(&mut wiring, at(0)).is_some() && tick(&mut wiring, at(10)).is_some());
        stop(&wiring, false);
        assert_eq!(tick(&mut wiring, at(20)), None);
        // The robot is told to hold by those who take trajectories; a stream just ends.
        wiring.cycle.step(at(25));
        wiring.chunks.try_recv(at(25));
        assert_eq!(tick(&mut wiring, at(30)), None);
        stop(&wiring, true);
        assert_eq!(tick(&mut wiring, at(40)), None, "what was followed before is over");
        wiring.cycle.step(at(50));
        assert!(chunk(&mut wiring, at(100), [0.7, 0.1]));
        let first = tick(&mut wiring, at(105)).unwrap();
        assert_eq!((first.state, first.positions[0]), (TickState::First, 0.7));
        // Until the end, so that the next round begins with nothing.
        stop(&wiring, false);
        assert_eq!(tick(&mut wiring, at(110)), None);
        stop(&wiring, true);
        wiring.cycle.step(at(115));
        wiring.chunks.try_recv(at(115));
    }
}

#[test]
fn when_the_loop_stalls_the_last_position_holds_until_the_next_chunk() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        streamed(settings);
        settings.watchdog_ms = 10.0;
    });
    faults.act(0.3);
    assert!(chunk(&mut wiring, stamp_ms(1000), [0.1, 0.1]));
    let first = tick(&mut wiring, stamp_ms(1000)).unwrap();
    thread::sleep(Duration::from_millis(20));
    for ms in [1010, 1020] {
        let stalled = tick(&mut wiring, stamp_ms(ms)).unwrap();
        assert_eq!((stalled.state, stalled.positions), (TickState::Stalled, first.positions));
    }
    // When it shows signs of life again, that motion is over. How long this takes must not matter here.
    let tick = |wiring: &mut Wiring, ms| {
        let mut sent = None;
        let keep = |tick: &Tick| sent = Some((tick.state, tick.positions.to_vec()));
        assert!(wiring.stream.as_mut().unwrap().try_tick(stamp_ms(ms), keep));
        sent.unwrap()
    };
    assert_eq!(tick(&mut wiring, 1030), (TickState::Holding, first.positions.to_vec()));
    assert!(chunk(&mut wiring, stamp_ms(1040), [0.1, 0.1]));
    assert_eq!(tick(&mut wiring, 1050).0, TickState::Following);
}

#[test]
fn by_a_clock_that_jumps_nothing_moves_until_there_is_a_chunk_of_the_new_time() {
    let faults = Faults::none();
    for jump_ms in [-5000, 5000] {
        let (_folder, mut wiring) = robot_on(&faults, streamed);
        faults.act(0.3);
        assert!(chunk(&mut wiring, stamp_ms(10_000), [0.1, 0.1]));
        tick(&mut wiring, stamp_ms(10_000));
        let before = tick(&mut wiring, stamp_ms(10_010)).unwrap();
        for ms in [10, 20, 300] {
            let jumped = tick(&mut wiring, stamp_ms(10_010 + jump_ms + ms)).unwrap();
            assert_eq!((jumped.state, jumped.positions), (TickState::Holding, before.positions));
        }
        faults.act(0.2);
        let now = 10_400 + jump_ms;
        assert!(chunk(&mut wiring, stamp_ms(now), before.positions));
        let sent: Vec<Sent> =
            (1..6).map(|index| tick(&mut wiring, stamp_ms(now + 10 * index)).unwrap()).collect();
        assert!((sent[4].positions[0] - 0.2).abs() < 1e-7, "{sent:?}");
    }
}

/// What may happen to a robot in some hundred ticks.
struct Weather {
    random: ChaCha8Rng,
    now_ns: i64,
}

/// Random policies, chunks that come in time or late, ticks that come late or not at all, a clock that jumps, a node that is
/// disabled: for some seeds each, on straight lines and splines, with joins that replace and that blend.
#[test]
fn nothing_is_beyond_the_limits_and_nothing_jumps_whatever_happens() {
    const VELOCITY: [f64; 2] = [1.5, 3.0];
    const STEP: [f64; 2] = [0.05, 0.04];
    let faults = Faults::none();
    let (mut moved, mut ticks) = (0.0_f64, 0);
    for (interpolation, join) in [
        (Interpolation::Linear, ChunkJoin::Replace),
        (Interpolation::Linear, ChunkJoin::Blend { blend_ms: 80.0 }),
        (Interpolation::Spline, ChunkJoin::Replace),
        (Interpolation::Spline, ChunkJoin::Blend { blend_ms: 80.0 }),
    ] {
        let (_folder, mut wiring) = robot_on(&faults, |settings| {
            streamed(settings);
            (settings.interpolation, settings.chunk_join) = (interpolation, join);
            settings.limits.position_min = vec![-0.3; 2];
            settings.limits.position_max = vec![0.3; 2];
            settings.limits.velocity_max = VELOCITY.to_vec();
            settings.limits.step_max = STEP.to_vec();
        });
        for seed in 0..12 {
            let random = ChaCha8Rng::seed_from_u64(seed);
            let mut weather = Weather { random, now_ns: 1_000_000_000_000 * (seed as i64 + 1) };
            // What is there from another seed is over.
            wiring.enable.set(false);
            wiring.cycle.step(Stamp(weather.now_ns - 1));
            wiring.chunks.try_recv(Stamp(weather.now_ns - 1));
            tick(&mut wiring, Stamp(weather.now_ns - 1));
            wiring.enable.set(true);
            let mut robot = [0.0, 0.0];
            let mut last: Option<Sent> = None;
            for _ in 0..150 {
                let event: f64 = weather.random.random();
                if event < 0.15 {
                    // Near enough to where the robot is for most chunks to keep to the limits.
                    faults.act(robot[0] as f32 + weather.random.random_range(-0.03..0.03));
                    chunk(&mut wiring, Stamp(weather.now_ns), robot);
                }
                weather.now_ns += match event {
                    0.15..0.20 => weather.random.random_range(10_000_000..80_000_000),
                    0.20..0.21 => weather.random.random_range(1_000_000_000..3_000_000_000),
                    0.21..0.22 => -weather.random.random_range(1_000_000..2_000_000_000_i64),
                    _ => PERIOD_NS + weather.random.random_range(-2_000_000..2_000_000),
                };
                let pause = (0.22..0.23).contains(&event);
                if pause {
                    wiring.enable.set(false);
                }
                let now = Stamp(weather.now_ns);
                let sent = tick(&mut wiring, now);
                if pause {
                    assert_eq!(sent, None);
                    wiring.enable.set(true);
                }
                let Some(sent) = sent else {
                    last = None;
                    continue;
                };
                ticks += 1;
                for joint in 0..2 {
                    let position = sent.positions[joint];
                    assert!((-0.3 - 1e-9..=0.3 + 1e-9).contains(&position), "seed {seed}: {sent:?}");
                    let from = last.as_ref().map_or(robot[joint], |last| last.positions[joint]);
                    let step = (position - from).abs();
                    let allowed = (VELOCITY[joint].min(STEP[joint] * CONTROL_HZ) * PERIOD_NS as f64 / 1e9)
                        .min(STEP[joint]);
                    let allowed = if sent.state == TickState::Following { allowed } else { 0.0 };
                    assert!(
                        step <= allowed + 1e-9,
                        "seed {seed}: a step of {step} from {last:?} to {sent:?}"
                    );
                    moved += step;
                }
                if let Some(last) = &last
                    && (last.state, sent.state) == (TickState::Following, TickState::Following)
                {
                    let back_ms = last.at.ms_since(sent.at);
                    assert!(!(0.0..=100.0).contains(&back_ms), "seed {seed}: time ran back by {back_ms} ms");
                }
                robot = sent.positions;
                last = Some(sent);
            }
        }
    }
    // It was not a robot that stood still.
    assert!(ticks > 3_000 && moved > 5.0, "{ticks} ticks, {moved} rad");
}

/// Ticks of another thread while chunks come, at the times that they are for.
#[test]
fn a_running_stream_keeps_its_times_by_this_machines_clock_or_by_the_nodes() {
    let faults = Faults::none();
    for pace in [Pace::Machine, Pace::Clock] {
        let (_folder, mut wiring) = robot_on(&faults, |settings| {
            streamed(settings);
            (settings.max_image_age_ms, settings.max_joint_age_ms) = (60_000.0, 60_000.0);
        });
        let mut stream = wiring.stream.take().unwrap();
        let (stop, began) = (AtomicBool::new(false), Instant::now());
        let clock = || Stamp(1_000_000_000 + began.elapsed().as_nanos() as i64);
        faults.act(0.3);
        assert!(chunk(&mut wiring, clock(), [0.1, 0.1]));
        let mut times = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                stream.run(clock, pace, &stop, |tick| {
                    times.push(tick.at.0);
                    // Enough, whatever happens.
                    if times.len() == 20 {
                        stop.store(true, SeqCst);
                    }
                });
            });
        });
        assert_eq!(times.len(), 20);
        assert!(times.is_sorted());
        // None is early: the 19 that follow the first take 19 periods and what they were late by.
        assert!(times[19] - times[0] >= 19 * PERIOD_NS - PERIOD_NS / 2, "{times:?}");
        let snapshot = wiring.monitor.snapshot();
        assert_eq!(snapshot.ticks, 20);
        let timed = snapshot.stage(pi0_node::telemetry::Stage::StreamLateness).count;
        assert_eq!(timed > 0, pace == Pace::Machine, "{timed}");
    }
}
