//! The control loop on a device that works by itself: programs are started one after another, and waited for once a cycle. What comes
//! out is what the same device gives when it is waited for each time.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/robot.rs"]
mod robot;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use faulty::{Faults, robot_on};
use pi0_node::control::{Chunk, Outcome, Phase, Wiring};
use pi0_node::policy::PolicyConfig;
use pi0_node::settings::{ChunkJoin, Settings};
use pi0_node::telemetry::{DropReason, Stage};
use robot::{put_image, put_joints, put_positions, stamp_ms, write_checkpoint_of};

/// A device that works by itself.
fn unwaited() -> Arc<Faults> {
    let faults = Faults::none();
    faults.later.store(true, SeqCst);
    faults
}

/// How often the device was waited for since the last time.
fn waits(faults: &Faults) -> u32 {
    faults.waits.swap(0, SeqCst)
}

fn send(wiring: &mut Wiring, ms: i64) -> Option<Chunk> {
    wiring.chunks.try_recv(stamp_ms(ms))
}

/// A cycle on a new frame, and 20 ms later one on a new joint state alone, where there are such.
fn two_cycles(wiring: &mut Wiring, ms: i64) -> [Option<Chunk>; 2] {
    put_image(wiring, ms);
    put_joints(wiring, ms);
    assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    let first = send(wiring, ms + 10);
    put_positions(wiring, ms + 20, [0.11, 0.2]);
    wiring.cycle.step(stamp_ms(ms + 20));
    [first, send(wiring, ms + 30)]
}

#[test]
fn a_cycle_waits_once_and_gives_the_same_chunks() {
    let joins = [ChunkJoin::Replace, ChunkJoin::Guided { blend_ms: 0.0 }];
    for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
        for (chunk_join, act_rate_hz) in joins.into_iter().flat_map(|join| [(join, 0.0), (join, 100.0)]) {
            let change = |settings: &mut Settings| {
                write_checkpoint_of(&settings.checkpoint, &config);
                (settings.chunk_join, settings.act_rate_hz) = (chunk_join, act_rate_hz);
            };
            let faults = unwaited();
            let (_folder, mut wiring) = robot_on(&faults, change);
            let (_other, mut waited) = robot_on(&Faults::none(), change);
            waits(&faults);
            for ms in (1000..1500).step_by(100) {
                let [found, expected] = [&mut wiring, &mut waited].map(|wiring| two_cycles(wiring, ms));
                for (found, expected) in found.iter().zip(&expected) {
                    let actions = |chunk: &Option<Chunk>| chunk.as_ref().map(|chunk| chunk.actions.clone());
                    assert_eq!(actions(found), actions(expected), "at {ms} ms");
                }
                let chunks = found.iter().flatten().count();
                assert_eq!(chunks, if act_rate_hz > 0.0 { 2 } else { 1 });
                assert_eq!(waits(&faults) as usize, chunks, "{chunk_join:?} at {ms} ms");
            }
        }
    }
}

#[test]
fn a_chunk_that_is_still_on_its_way_out_is_given_perceive_s_time() {
    let faults = unwaited();
    let guided = ChunkJoin::Guided { blend_ms: 0.0 };
    let (_folder, mut wiring) = robot_on(&faults, |settings| settings.chunk_join = guided);
    let mut cycle = |ms: i64, is_sent: bool| {
        waits(&faults);
        put_image(&mut wiring, ms);
        put_joints(&mut wiring, ms);
        assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
        if is_sent {
            assert!(send(&mut wiring, ms).is_some());
        }
        waits(&faults)
    };
    assert_eq!(
        [(100, true), (200, false), (300, true), (400, true)].map(|(ms, sent)| cycle(ms, sent)),
        [1, 1, 2, 1]
    );
}

#[test]
fn stages_have_their_own_times() {
    let faults = unwaited();
    let (_folder, mut wiring) = robot_on(&faults, |settings| settings.latency_budget_ms = 500.0);
    faults.delay_us.store(20_000, SeqCst);
    faults.delay_per_step_us.store(4000, SeqCst);
    two_cycles(&mut wiring, 1000);
    let snapshot = wiring.monitor.snapshot();
    let ms = |stage: Stage| snapshot.stages[stage as usize].1.max_ms;
    let [perceive, act, cycle] = [Stage::Perceive, Stage::Act, Stage::Cycle].map(ms);
    // Ten steps of 4 ms more.
    assert!(perceive >= 20.0 && act >= 60.0, "{perceive} {act}");
    // No time is in both: histograms keep one part in a hundred.
    assert!(perceive + act <= 1.03 * cycle, "{perceive} and {act} of {cycle} ms");
    assert!(ms(Stage::Siglip) > 0.0 && ms(Stage::DenoiseStep) > 0.0);
}

#[test]
fn where_perceive_still_runs_the_choice_of_steps_counts_on_it() {
    let faults = unwaited();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        (settings.denoise_steps, settings.latency_budget_ms) = (vec![20, 3], 350.0);
    });
    // Perceive takes 100 ms, an act of 20 steps 300.
    faults.delay_us.store(100_000, SeqCst);
    faults.delay_per_step_us.store(10_000, SeqCst);
    let began = Instant::now();
    let clock = || stamp_ms(1000 + began.elapsed().as_millis() as i64);
    let mut steps = || {
        faults.acts.lock().unwrap().clear();
        let now = clock().0 / 1_000_000;
        put_image(&mut wiring, now);
        put_joints(&mut wiring, now);
        assert_eq!(wiring.cycle.step_in_time(&clock), Outcome::Chunk);
        faults.acts.lock().unwrap().clone()
    };
    // Nobody knows yet how slow it has become.
    assert_eq!(steps(), [20]);
    // 20 steps would be done in 350 ms if perceive were done already.
    assert_eq!(steps(), [3]);
}

#[test]
fn an_error_that_comes_when_it_is_waited_for_is_a_refusal() {
    let faults = unwaited();
    let (_folder, mut wiring) = robot_on(&faults, |_| {});
    let mut cycle = |ms: i64| {
        put_image(&mut wiring, ms);
        put_joints(&mut wiring, ms);
        let outcome = wiring.cycle.step(stamp_ms(ms));
        (outcome, send(&mut wiring, ms), wiring.monitor.state().phase)
    };
    assert_eq!(cycle(100).0, Outcome::Chunk);
    faults.refuse_runs.store(1, SeqCst);
    let (outcome, hold, phase) = cycle(200);
    assert_eq!((outcome, phase), (Outcome::Dropped(DropReason::Device), Phase::Holding));
    assert_eq!(hold.unwrap().hold, Some(DropReason::Device));
    assert_eq!(faults.opened.load(SeqCst), 2);
    assert_eq!(cycle(300).0, Outcome::Chunk);
}

#[test]
fn perceive_is_waited_for_when_there_is_no_act() {
    let faults = unwaited();
    let (_folder, mut wiring) = robot_on(&faults, |_| {});
    waits(&faults);
    put_image(&mut wiring, 100);
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Dropped(DropReason::JointsMissing));
    assert_eq!(waits(&faults), 1);
    assert_eq!(wiring.monitor.snapshot().stages[Stage::Perceive as usize].1.count, 1);
}
