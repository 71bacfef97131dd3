//! What the loop does when something breaks: sensors that stop, clocks that jump, a policy that gives nonsense, a device
//! that refuses. Stale or invented numbers never become actions, and what can go on goes on.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/robot.rs"]
mod robot;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use faulty::{Faults, robot_on};
use pi0_node::control::{Chunk, Outcome, Phase, Wiring};
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::{Camera, MissingCamera, StampSource, Transport};
use pi0_node::telemetry::DropReason;
use robot::{image, put_image, put_joints, stamp_ms};

/// A step at a time, and what is sent then.
fn step(wiring: &mut Wiring, ms: i64) -> (Outcome, Option<Chunk>) {
    let outcome = wiring.cycle.step(stamp_ms(ms));
    (outcome, wiring.chunks.try_recv(stamp_ms(ms)))
}

/// A frame of the first camera and a joint state, a step, and what is sent.
fn cycle(wiring: &mut Wiring, ms: i64) -> (Outcome, Option<Chunk>) {
    put_image(wiring, ms);
    put_joints(wiring, ms);
    step(wiring, ms)
}

fn sends_actions(wiring: &mut Wiring, ms: i64) -> Chunk {
    let (outcome, chunk) = cycle(wiring, ms);
    assert_eq!(outcome, Outcome::Chunk, "at {ms} ms");
    let chunk =
        chunk.unwrap_or_else(|| panic!("nothing was sent at {ms} ms: {:?}", wiring.monitor.snapshot()));
    assert_eq!(chunk.hold, None);
    chunk
}

fn two_cameras(missing: MissingCamera) -> (tempfile::TempDir, Wiring) {
    let camera = |name: &str, topic: &str, missing| Camera {
        name: name.into(),
        topic: Some(topic.into()),
        transport: Transport::Raw,
        missing,
        stamps: StampSource::Header,
    };
    robot_on(&Faults::none(), |settings| {
        settings.cameras = vec![
            camera("base_0_rgb", "/top", MissingCamera::Wait),
            camera("left_wrist_0_rgb", "/left", missing),
        ];
        settings.max_image_age_ms = 300.0;
    })
}

fn put_second_image(wiring: &mut Wiring, ms: i64) {
    wiring.cameras[1].put_image(&image(stamp_ms(ms)), stamp_ms(ms)).unwrap();
}

#[test]
fn while_a_camera_is_gone_there_is_no_chunk_and_when_it_returns_there_is() {
    let (_folder, mut wiring) = two_cameras(MissingCamera::Wait);
    put_second_image(&mut wiring, 100);
    sends_actions(&mut wiring, 100);
    for ms in (200..1000).step_by(100) {
        assert_eq!(cycle(&mut wiring, ms), (Outcome::Idle, None));
    }
    put_second_image(&mut wiring, 1000);
    sends_actions(&mut wiring, 1000);
}

#[test]
fn a_camera_that_may_be_missing_is_masked_when_it_stops_and_seen_when_it_returns() {
    let (_folder, mut wiring) = two_cameras(MissingCamera::Mask);
    let (_other, mut absent) = robot_on(&Faults::none(), |_| {});
    put_second_image(&mut wiring, 100);
    sends_actions(&mut wiring, 100);
    assert_eq!(cycle(&mut wiring, 300), (Outcome::Idle, None));

    // Its image of 100 ms is too old now: the model sees what it would see of a robot without this camera.
    let masked = sends_actions(&mut wiring, 500);
    let without = sends_actions(&mut absent, 500);
    let largest = masked.actions.iter().zip(&without.actions).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 1e-5, "{largest:e}");

    put_second_image(&mut wiring, 600);
    let seen = sends_actions(&mut wiring, 600);
    assert_ne!(seen.actions, sends_actions(&mut absent, 600).actions);
}

#[test]
fn images_that_are_too_old_become_no_action() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.max_image_age_ms = 100.0);
    put_image(&mut wiring, 100);
    put_joints(&mut wiring, 250);
    assert_eq!(step(&mut wiring, 250), (Outcome::Dropped(DropReason::ImagesStale), None));

    // Young enough when the cycle begins, too old when the chunk is to leave.
    put_image(&mut wiring, 300);
    put_joints(&mut wiring, 300);
    assert_eq!(wiring.cycle.step(stamp_ms(310)), Outcome::Chunk);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(450)), None);
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.dropped(DropReason::ImagesStale), snapshot.chunks), (2, 0));
    assert_eq!(wiring.monitor.state().why, Some(DropReason::ImagesStale));
}

#[test]
fn when_joints_stop_chunks_stop_and_go_on_with_them() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |settings| settings.max_joint_age_ms = 150.0);
    sends_actions(&mut wiring, 100);
    put_image(&mut wiring, 200);
    assert!(step(&mut wiring, 200).1.is_some());
    for ms in [300, 400] {
        put_image(&mut wiring, ms);
        assert_eq!(step(&mut wiring, ms), (Outcome::Dropped(DropReason::JointsStale), None));
    }
    sends_actions(&mut wiring, 500);

    // A driver that sends an old state again and again is no better, unless it has no clock at all.
    let names = ["waist".to_owned(), "elbow".to_owned()];
    for (stamp, sent) in [(stamp_ms(500), false), (Stamp(0), true)] {
        let state = JointState { stamp, names: &names, positions: &[0.1, 0.2] };
        wiring.joints.put(&state, stamp_ms(800)).unwrap();
        put_image(&mut wiring, if sent { 801 } else { 800 });
        assert_eq!(step(&mut wiring, 801).1.is_some(), sent);
    }
}

#[test]
fn a_clock_that_jumps_back_starts_over_and_nothing_from_before_is_used() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |_| {});
    for ms in [60_000, 60_100] {
        sends_actions(&mut wiring, ms);
    }
    // The joints of before have stamps that the clock has not reached.
    put_image(&mut wiring, 1000);
    assert_eq!(step(&mut wiring, 1000), (Outcome::Dropped(DropReason::StampsAhead), None));
    let chunk = sends_actions(&mut wiring, 1100);
    assert_eq!((chunk.observation, chunk.first), (stamp_ms(1100), 0));
}

#[test]
fn a_clock_that_jumps_forward_makes_everything_old_until_new_messages_come() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |_| {});
    sends_actions(&mut wiring, 1000);
    put_image(&mut wiring, 1100);
    put_joints(&mut wiring, 1100);
    assert_eq!(step(&mut wiring, 90_000), (Outcome::Dropped(DropReason::ImagesStale), None));
    sends_actions(&mut wiring, 90_100);
}

#[test]
fn a_clock_that_jumps_while_the_model_thinks_lets_no_chunk_out() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |_| {});
    for (ms, jumped, reason) in
        [(1000, 90_000, DropReason::ImagesStale), (91_000, 2000, DropReason::StampsAhead)]
    {
        put_image(&mut wiring, ms);
        put_joints(&mut wiring, ms);
        assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
        assert_eq!(wiring.chunks.try_recv(stamp_ms(jumped)), None);
        assert_eq!(wiring.monitor.snapshot().dropped(reason), 1);
    }
}

#[test]
fn images_of_another_size_or_encoding_appear_mid_run() {
    let (_folder, mut wiring) = robot_on(&Faults::none(), |_| {});
    sends_actions(&mut wiring, 100);
    let data = [50; 120 * 30 * 4];
    for (ms, encoding, width, row) in
        [(200, "rgba8", 120, 480), (300, "mono8", 17, 20), (400, "rgb8", 60, 180)]
    {
        let image = Image {
            stamp: stamp_ms(ms),
            height: 30,
            width,
            encoding,
            is_bigendian: false,
            step: row,
            data: &data,
        };
        wiring.cameras[0].put_image(&image, stamp_ms(ms)).unwrap();
        put_joints(&mut wiring, ms);
        let (outcome, chunk) = step(&mut wiring, ms);
        assert_eq!((outcome, chunk.map(|chunk| chunk.observation)), (Outcome::Chunk, Some(stamp_ms(ms))));
    }
}

#[test]
fn a_policy_that_gives_nonsense_makes_the_robot_hold_where_it_is_until_it_makes_sense_again() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |_| {});
    faults.act(f32::NAN);
    // Nothing was sent yet, so there is nothing to stop.
    assert_eq!(cycle(&mut wiring, 100), (Outcome::Dropped(DropReason::NotFinite), None));
    faults.act(0.15);
    sends_actions(&mut wiring, 200);

    faults.act(f32::NAN);
    let (outcome, hold) = cycle(&mut wiring, 300);
    let hold = hold.expect("a moving robot is told to hold");
    assert_eq!(outcome, Outcome::Dropped(DropReason::NotFinite));
    assert_eq!((hold.hold, hold.observation), (Some(DropReason::NotFinite), stamp_ms(300)));
    assert_eq!(hold.first, 0);
    assert!(hold.points().all(|(_, positions)| positions == [0.1, 0.2]));
    assert_eq!(wiring.monitor.state().phase, Phase::Holding);
    // It holds already.
    assert_eq!(cycle(&mut wiring, 310), (Outcome::Dropped(DropReason::NotFinite), None));

    faults.act(0.12);
    sends_actions(&mut wiring, 400);
    assert_eq!(wiring.monitor.state().phase, Phase::Running);
}

#[test]
fn a_device_that_refuses_is_rebuilt_once_and_then_given_up() {
    let faults = Faults::none();
    let (_folder, mut wiring) = robot_on(&faults, |_| {});
    let before = sends_actions(&mut wiring, 100);

    faults.refuse_runs.store(1, SeqCst);
    let (outcome, hold) = cycle(&mut wiring, 200);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Device));
    assert_eq!(hold.unwrap().hold, Some(DropReason::Device));
    assert_eq!(faults.opened.load(SeqCst), 2);
    assert_eq!(wiring.monitor.state().phase, Phase::Holding);
    // The same task on the new device: what it gives does not depend on what was before.
    let after = sends_actions(&mut wiring, 300);
    let (_other, mut other) = robot_on(&Faults::none(), |_| {});
    assert_eq!(after.actions, sends_actions(&mut other, 300).actions);
    assert_ne!(after.actions, before.actions);

    faults.refuse_runs.store(1, SeqCst);
    assert_eq!(cycle(&mut wiring, 400).0, Outcome::Dropped(DropReason::Device));
    assert_eq!(wiring.monitor.state().phase, Phase::Failed);
    assert_eq!(cycle(&mut wiring, 500), (Outcome::Idle, None));
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.chunks, snapshot.dropped(DropReason::Device)), (2, 2));
    assert_eq!(faults.opened.load(SeqCst), 2);
    assert!(snapshot.last_error.unwrap().contains("given up"));
}

#[test]
fn a_device_that_cannot_be_rebuilt_is_given_up_at_once() {
    let faults = Faults::none();
    let (folder, mut wiring) = robot_on(&faults, |_| {});
    sends_actions(&mut wiring, 100);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    faults.refuse_runs.store(1, SeqCst);
    let (outcome, hold) = cycle(&mut wiring, 200);
    assert_eq!((outcome, hold.is_some()), (Outcome::Dropped(DropReason::Device), true));
    assert_eq!(wiring.monitor.state().phase, Phase::Failed);
    assert_eq!(cycle(&mut wiring, 300), (Outcome::Idle, None));
}

#[test]
fn a_stop_in_the_middle_of_a_cycle_ends_the_loop_after_it() {
    let faults = Faults::none();
    let (_folder, wiring) = robot_on(&faults, |_| {});
    let Wiring { mut cameras, mut joints, mut cycle, monitor, .. } = wiring;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    *faults.on_run.lock().unwrap() = Some(Box::new(move || stopping.store(true, SeqCst)));
    cameras[0].put_image(&image(stamp_ms(100)), stamp_ms(100)).unwrap();
    joints.put(&robot::joint_state(stamp_ms(100)), stamp_ms(100)).unwrap();
    cycle.run(|| stamp_ms(100), &stop);
    // The cycle was finished, not torn off; who sends has stopped too.
    assert_eq!((monitor.snapshot().frame_sets, monitor.snapshot().chunks), (1, 0));
}

#[test]
fn a_loop_that_stalls_is_reported_and_what_it_makes_is_not_sent() {
    let faults = Faults::none();
    let (_folder, wiring) = robot_on(&faults, |settings| {
        settings.watchdog_ms = 500.0;
        (settings.max_image_age_ms, settings.max_joint_age_ms) = (10_000.0, 10_000.0);
    });
    let Wiring { mut cameras, mut joints, mut cycle, mut chunks, monitor, .. } = wiring;
    let began = Instant::now();
    let clock = move || Stamp(1_000_000_000 + began.elapsed().as_nanos() as i64);
    let stop = AtomicBool::new(false);
    let mut observe = || {
        let now = clock();
        joints.put(&robot::joint_state(now), now).unwrap();
        cameras[0].put_image(&image(now), now).unwrap();
    };
    let mut send =
        || chunks.wait(Duration::from_secs(20)).then(|| chunks.send(clock, |_, _| Ok::<_, Infallible>(())));
    thread::scope(|scope| {
        scope.spawn(|| cycle.run(clock, &stop));
        faults.delayed_runs.store(1, SeqCst);
        faults.delay_us.store(900_000, SeqCst);
        observe();
        while monitor.state().phase != Phase::Stalled {
            assert!(began.elapsed() < Duration::from_secs(20), "no stall was seen");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(send(), Some(Ok(false)));
        assert_eq!(monitor.snapshot().dropped(DropReason::Stalled), 1);
        // It recovers by itself.
        observe();
        assert_eq!(send(), Some(Ok(true)));
        assert_eq!(monitor.state().phase, Phase::Running);
        stop.store(true, SeqCst);
    });
}
