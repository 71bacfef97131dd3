//! The way out of a chunk: which points are sent, how one chunk follows another, what is refused. Beside what the node
//! promises, every way in which real-time chunking is known to have gone wrong elsewhere has a test here: arms that
//! jumped because late points were skipped by an estimate, estimates spoiled by the first slow runs, and zeros put
//! where there was no action.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/robot.rs"]
mod robot;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use faulty::{Faults, robot_on};
use pi0_node::control::{Chunk, Outcome, Phase, Wiring};
use pi0_node::observe::messages::{JointState, Stamp};
use pi0_node::settings::{ChunkJoin, LimitSettings, OnDeadlineMiss};
use pi0_node::telemetry::{DropReason, Stage};
use robot::{put_image, put_joints, stamp_ms};

/// The robot's chunks have so many points, 20 ms apart.
const HORIZON: usize = 50;

/// A frame and joints of `ms`, whose chunk leaves at `sent_ms`.
fn chunk(wiring: &mut Wiring, ms: i64, sent_ms: i64) -> Option<Chunk> {
    put_image(wiring, ms);
    put_joints(wiring, ms);
    assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    wiring.chunks.try_recv(stamp_ms(sent_ms))
}

/// The first joint of every point that is sent, with its time.
fn waist(chunk: &Chunk) -> Vec<(i64, f64)> {
    chunk.points().map(|(index, row)| (chunk.time_of(index).0 / 1_000_000, row[0])).collect()
}

#[test]
fn points_whose_time_is_past_are_not_sent() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.latency_budget_ms = 500.0);
    for (sent_ms, first) in [(1000, 0), (1001, 1), (1040, 2), (1041, 3), (1400, 20)] {
        let chunk = chunk(&mut wiring, 1000 + 2000 * first as i64, sent_ms + 2000 * first as i64).unwrap();
        assert_eq!((chunk.first, chunk.points().count()), (first, HORIZON - first));
    }
}

#[test]
fn a_chunk_whose_points_are_all_past_is_not_sent() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| {
        (settings.max_image_age_ms, settings.max_joint_age_ms) = (5000.0, 5000.0);
    });
    assert_eq!(chunk(&mut wiring, 1000, 1981), None);
    assert_eq!(wiring.monitor.snapshot().dropped(DropReason::Past), 1);
    assert_eq!(chunk(&mut wiring, 3000, 3980).unwrap().points().count(), 1);
}

#[test]
fn late_points_are_skipped_by_the_clock_and_never_by_how_late_earlier_chunks_were() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| settings.latency_budget_ms = 500.0);
    faults.act(0.3);
    for ms in (1000..3000).step_by(200) {
        // Every chunk so far was 150 ms late.
        assert_eq!(chunk(&mut wiring, ms, ms + 150).unwrap().first, 8);
    }
    // This one is not.
    assert_eq!(chunk(&mut wiring, 3000, 3000).unwrap().first, 0);
}

#[test]
fn the_first_slow_runs_are_no_part_of_what_is_expected() {
    let faults = Faults::none();
    // The warm-up: each program for the first time.
    faults.delay_us.store(300_000, SeqCst);
    faults.delayed_runs.store(3, SeqCst);
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        (settings.denoise_steps, settings.latency_budget_ms) = (vec![4, 2], 250.0);
    });
    faults.acts.lock().unwrap().clear();
    act_now(&mut wiring);
    assert_eq!(*faults.acts.lock().unwrap(), [4]);
}

/// A chunk of an observation of right now, by a clock that runs.
fn act_now(wiring: &mut Wiring) {
    act_at(wiring, Instant::now(), 0);
}

/// A chunk of an observation made `ago_ms` before `began`, by a clock that runs from there.
fn act_at(wiring: &mut Wiring, began: Instant, ago_ms: i64) {
    thread_local!(static START: Cell<i64> = const { Cell::new(0) });
    let start = START.get() + 1_000_000_000;
    START.set(start);
    let clock = || Stamp(start + began.elapsed().as_nanos() as i64);
    let observation = (start - ago_ms * 1_000_000) / 1_000_000;
    put_image(wiring, observation);
    put_joints(wiring, observation);
    assert_eq!(wiring.cycle.step_in_time(&clock), Outcome::Chunk);
    let _ = wiring.chunks.send(clock, |_, _| Ok::<_, Infallible>(()));
}

#[test]
fn chunks_that_leave_later_than_they_assumed_are_counted() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| {
        (settings.chunk_join, settings.latency_budget_ms) = (ChunkJoin::Guided { blend_ms: 20.0 }, 500.0);
        // Two points of 20 ms.
        settings.rtc.delay_ms = Some(40.0);
    });
    let mut led = |ms: i64, sent_ms: i64| {
        chunk(&mut wiring, ms, sent_ms).unwrap();
        let joins = wiring.monitor.snapshot().joins;
        (joins.led, joins.led_late)
    };
    // The first one follows nothing.
    assert_eq!(led(1000, 1100), (0, 0));
    assert_eq!(led(1200, 1240), (1, 0));
    assert_eq!(led(1400, 1441), (2, 1));
    assert_eq!(led(1600, 1640), (3, 1));
    assert_eq!(led(1800, 1900), (4, 2));
}

#[test]
fn as_many_denoising_steps_are_taken_as_fit_the_time_left() {
    let faults = Faults::none();
    faults.delay_per_step_us.store(10_000, SeqCst);
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        (settings.denoise_steps, settings.latency_budget_ms) = (vec![20, 10, 3], 400.0);
    });
    let mut taken = |ago_ms| {
        faults.acts.lock().unwrap().clear();
        act_at(&mut wiring, Instant::now(), ago_ms);
        faults.acts.lock().unwrap().clone()
    };
    // 20 steps take more than 200 ms, 10 more than 100, 3 more than 30.
    assert_eq!(taken(0), [20]);
    assert_eq!(taken(215), [10]);
    assert_eq!(taken(325), [3]);
    assert_eq!(taken(390), [3]);
    assert_eq!(taken(0), [20]);
}

#[test]
fn by_a_clock_that_stands_still_the_most_steps_are_taken() {
    let faults = Faults::none();
    faults.delay_per_step_us.store(5000, SeqCst);
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        (settings.denoise_steps, settings.latency_budget_ms) = (vec![10, 3], 1.0);
    });
    faults.acts.lock().unwrap().clear();
    assert_eq!(chunk(&mut wiring, 1000, 1000).unwrap().denoising_steps, 10);
    assert_eq!(*faults.acts.lock().unwrap(), [10]);
}

#[test]
fn a_chunk_that_misses_its_deadline_is_sent_dropped_or_made_a_hold() {
    for (policy, expected) in [
        (OnDeadlineMiss::Publish, Some(None)),
        (OnDeadlineMiss::Drop, None),
        (OnDeadlineMiss::Hold, Some(Some(DropReason::Late))),
    ] {
        let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.on_deadline_miss = policy);
        assert!(chunk(&mut wiring, 1000, 1050).is_some());
        let late = chunk(&mut wiring, 1200, 1251);
        assert_eq!(late.map(|chunk| chunk.hold), expected);
        let snapshot = wiring.monitor.snapshot();
        assert_eq!(snapshot.missed.iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(snapshot.dropped(DropReason::Late), u64::from(policy != OnDeadlineMiss::Publish));
        assert!(chunk(&mut wiring, 1400, 1400).unwrap().hold.is_none());
    }
}

#[test]
fn a_miss_is_counted_with_what_took_too_long() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        settings.latency_budget_ms = 200.0;
        (settings.max_image_age_ms, settings.max_joint_age_ms) = (5000.0, 5000.0);
    });
    for _ in 0..5 {
        act_now(&mut wiring);
    }
    assert_eq!(wiring.monitor.snapshot().missed.iter().map(|(_, count)| count).sum::<u64>(), 0);

    faults.delay_per_step_us.store(30_000, SeqCst);
    act_now(&mut wiring);
    assert_eq!(wiring.monitor.snapshot().missed(Stage::Act), 1);
    faults.delay_per_step_us.store(0, SeqCst);

    // An image that was long on its way.
    let stamp = stamp_ms(1_000_000);
    let came = stamp_ms(1_000_300);
    wiring.cameras[0].put_image(&robot::image(stamp), came).unwrap();
    wiring.joints.put(&robot::joint_state(came), came).unwrap();
    assert_eq!(wiring.cycle.step(came), Outcome::Chunk);
    assert!(wiring.chunks.try_recv(came).is_some());
    assert_eq!(wiring.monitor.snapshot().missed(Stage::Transport), 1);
}

#[test]
fn a_blend_leads_from_what_was_really_sent() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        settings.chunk_join = ChunkJoin::Blend { blend_ms: 100.0 };
    });
    faults.act(1.0);
    let first = chunk(&mut wiring, 1000, 1010).unwrap();
    assert!(waist(&first).iter().all(|&(_, position)| position == 1.0), "there is nothing to lead over from");

    // A chunk that nobody takes, and one that is refused: neither was sent.
    faults.act(9.0);
    put_image(&mut wiring, 1100);
    put_joints(&mut wiring, 1100);
    assert_eq!(wiring.cycle.step(stamp_ms(1100)), Outcome::Chunk);
    wiring.enable.set(false);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(1105)), None);
    wiring.enable.set(true);

    faults.act(2.0);
    let second = waist(&chunk(&mut wiring, 1200, 1210).unwrap());
    assert_eq!(second[0].0, 1220);
    for &(ms, position) in &second {
        let progress = ((ms - 1210) as f64 / 100.0).min(1.0);
        let expected = 1.0 + 0.5 * (1.0 - (std::f64::consts::PI * progress).cos());
        assert!((position - expected).abs() < 1e-6, "{position} instead of {expected} at {ms} ms");
    }

    // In the middle of that blend: from where the robot is by then, not from the second chunk as the model made it.
    faults.act(0.0);
    let third = waist(&chunk(&mut wiring, 1240, 1250).unwrap());
    let sent = second.iter().find(|(ms, _)| *ms == 1260).unwrap().1;
    assert_eq!(third[0].0, 1260);
    assert!((third[0].1 - sent * (0.5 + 0.5 * (std::f64::consts::PI * 0.1).cos())).abs() < 1e-6);
}

#[test]
fn where_the_old_chunk_ends_nothing_is_put_in_its_place() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        settings.chunk_join = ChunkJoin::Blend { blend_ms: 200.0 };
        settings.latency_budget_ms = 500.0;
    });
    faults.act(0.8);
    chunk(&mut wiring, 1000, 1000).unwrap();
    // The old chunk ends at 1980 ms, in the middle of the blend: the robot stays at its last point, which is no zero.
    faults.act(0.9);
    let joined = chunk(&mut wiring, 1900, 1900).unwrap();
    assert_eq!(joined.points().count(), HORIZON);
    let positions: Vec<f64> = waist(&joined).into_iter().map(|(_, position)| position).collect();
    assert!(positions.is_sorted() && positions[0] > 0.8 - 1e-6 && positions[HORIZON - 1] < 0.9 + 1e-6);

    // A late chunk is short; it is not filled up either.
    let late = chunk(&mut wiring, 3000, 3300).unwrap();
    assert_eq!(late.points().count(), HORIZON - 15);
    assert!(waist(&late).iter().all(|(_, position)| (position - 0.9).abs() < 1e-6));
}

#[test]
fn nothing_is_sent_before_the_first_observation() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.act_rate_hz = 100.0);
    // The programs have run, on nothing in particular; what they gave is nobody's action.
    put_joints(&mut wiring, 100);
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Idle);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(100)), None);
}

#[test]
fn between_frame_sets_newer_joint_states_give_chunks_at_the_rate_asked_for() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        (settings.act_rate_hz, settings.max_image_age_ms) = (50.0, 100.0);
    });
    let first = chunk(&mut wiring, 1000, 1000).unwrap();
    let mut chunks = Vec::new();
    for ms in (1010..1150).step_by(10) {
        put_joints(&mut wiring, ms);
        let outcome = wiring.cycle.step(stamp_ms(ms));
        assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Idle, "the same joints again");
        if outcome == Outcome::Chunk {
            chunks.push(wiring.chunks.try_recv(stamp_ms(ms)).unwrap());
        }
    }
    // Not faster than 50 Hz, and not on images older than 100 ms.
    let times: Vec<i64> = chunks.iter().map(|chunk| chunk.observation.0 / 1_000_000).collect();
    assert_eq!(times, [1020, 1040, 1060, 1080, 1100]);
    // The same view, noise and joint positions: the same actions, from a later time on.
    assert_eq!(chunks[0].actions, first.actions);
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.chunks, snapshot.stage(Stage::Perceive).count), (1, 6, 1));
    assert_eq!(snapshot.dropped(DropReason::ImagesStale), 1);
}

#[test]
fn after_a_new_prompt_nothing_is_done_on_what_was_seen_for_the_old_one() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.act_rate_hz = 50.0);
    chunk(&mut wiring, 1000, 1000).unwrap();
    // Long enough for other programs, which have perceived nothing yet.
    wiring.prompt.put(&"another task ".repeat(2)).unwrap();
    put_joints(&mut wiring, 1100);
    assert_eq!(wiring.cycle.step(stamp_ms(1100)), Outcome::Idle);
    assert!(chunk(&mut wiring, 1200, 1200).is_some());
}

#[test]
fn a_chunk_beyond_a_limit_makes_the_robot_hold_and_says_which() {
    let limits = |change: &dyn Fn(&mut LimitSettings)| {
        let mut limits = LimitSettings::default();
        change(&mut limits);
        limits
    };
    for (limits, reason, words) in [
        (
            limits(&|limits| limits.position_max = vec![0.5, 0.5]),
            DropReason::PositionLimit,
            "joint 'waist' would be at 0.6",
        ),
        (
            limits(&|limits| limits.velocity_max = vec![1.0, 9e5]),
            DropReason::VelocityLimit,
            "joint 'waist' would move at 20",
        ),
        (
            limits(&|limits| limits.step_max = vec![9.0, 0.3]),
            DropReason::StepLimit,
            "joint 'elbow' would make a step of 0.4",
        ),
    ] {
        let faults = Faults::none();
        let (_folder, mut wiring) = robot_on(&faults, |settings| settings.limits = limits);
        faults.act(0.2);
        chunk(&mut wiring, 1000, 1000).unwrap();
        faults.act(0.6);
        let hold = chunk(&mut wiring, 1100, 1100).expect("a hold");
        assert_eq!(hold.hold, Some(reason));
        // Where it was measured, and for so long that it is not past when the robot's controller has it.
        let held = [1100, 1120, 1140, 1160, 1180, 1200].map(|ms| (ms, 0.1));
        assert_eq!(waist(&hold), held);
        let snapshot = wiring.monitor.snapshot();
        assert_eq!((snapshot.dropped(reason), snapshot.chunks), (1, 1));
        assert!(snapshot.last_error.as_ref().unwrap().contains(words), "{snapshot:?}");
        assert_eq!(wiring.monitor.state().why, Some(reason));
        faults.act(0.11);
        assert!(chunk(&mut wiring, 1200, 1200).unwrap().hold.is_none());
    }
}

#[test]
fn a_blend_keeps_a_large_difference_within_the_limits() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| {
        settings.chunk_join = ChunkJoin::Blend { blend_ms: 500.0 };
        settings.limits.velocity_max = vec![2.0, 2.0];
    });
    faults.act(0.2);
    chunk(&mut wiring, 1000, 1000).unwrap();
    faults.act(0.6);
    assert!(chunk(&mut wiring, 1100, 1100).unwrap().hold.is_none());
}

#[test]
fn nothing_is_sent_until_enabled_and_disabling_stops_the_robot() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| settings.require_enable = true);
    faults.act(0.2);
    assert_eq!(chunk(&mut wiring, 1000, 1000), None);
    assert_eq!(wiring.monitor.state().phase, Phase::Disabled);
    assert_eq!(wiring.monitor.snapshot().dropped(DropReason::Disabled), 1);

    wiring.enable.set(true);
    assert!(chunk(&mut wiring, 1100, 1100).unwrap().hold.is_none());
    assert_eq!(wiring.monitor.state().phase, Phase::Running);

    wiring.enable.set(false);
    assert_eq!(wiring.cycle.step(stamp_ms(1150)), Outcome::Idle);
    let hold = wiring.chunks.try_recv(stamp_ms(1150)).expect("a moving robot is told to hold");
    assert_eq!(hold.hold, Some(DropReason::Disabled));
    assert_eq!(wiring.monitor.state().phase, Phase::Disabled);
    assert_eq!(chunk(&mut wiring, 1200, 1200), None);
}

#[test]
fn a_hold_is_not_sent_to_where_nobody_knows_the_robot_is() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |_| {});
    faults.act(0.2);
    chunk(&mut wiring, 1000, 1000).unwrap();
    wiring.enable.set(false);
    // The last joint state is of 1000 ms.
    wiring.cycle.step(stamp_ms(1600));
    assert_eq!(wiring.chunks.try_recv(stamp_ms(1600)), None);
}

#[test]
fn a_chunk_that_could_not_be_sent_was_not_sent() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |settings| settings.limits.step_max = vec![0.15, 0.15]);
    let names = ["waist".to_owned(), "elbow".to_owned()];
    let observe = |wiring: &mut Wiring, ms| {
        put_image(wiring, ms);
        let state = JointState { stamp: stamp_ms(ms), names: &names, positions: &[0.1, 0.1] };
        wiring.joints.put(&state, stamp_ms(ms)).unwrap();
        assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    };
    faults.act(0.2);
    observe(&mut wiring, 1000);
    assert_eq!(wiring.chunks.send(|| stamp_ms(1000), |_, _| Err("no network")), Err("no network"));
    // From 0.2 this would be allowed, but the robot is still at 0.1.
    faults.act(0.3);
    observe(&mut wiring, 1100);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(1100)), None);
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.dropped(DropReason::Unsent), snapshot.dropped(DropReason::StepLimit)), (1, 1));
}
