//! The control loop on the real device: when a chunk comes out, and why sometimes none does.

#[path = "support/robot.rs"]
mod robot;

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use pi0_node::control::{Chunk, JointInput, Motion, Outcome, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::Settings;
use pi0_node::telemetry::{DropReason, Stage};
use robot::{image, joint_state, put_image, put_joints, settings, stamp_ms, write_checkpoint};
use tempfile::TempDir;

fn robot() -> (TempDir, Wiring) {
    robot_with(|_| {})
}

fn robot_with(change: impl FnOnce(&mut Settings)) -> (TempDir, Wiring) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let mut settings = settings(folder.path());
    change(&mut settings);
    let wiring = assemble(&settings, &Silent).unwrap();
    (folder, wiring)
}

/// Frame and joints at a time, and the chunk they lead to.
fn chunk_at(wiring: &mut Wiring, ms: i64) -> Chunk {
    put_image(wiring, ms);
    put_joints(wiring, ms);
    assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    wiring.chunks.try_recv(stamp_ms(ms)).unwrap()
}

#[test]
fn a_frame_set_and_a_joint_state_make_a_chunk() {
    let (_folder, mut wiring) = robot();
    assert_eq!(wiring.cycle.step(stamp_ms(0)), Outcome::Idle);
    let chunk = chunk_at(&mut wiring, 100);
    assert_eq!((chunk.observation, chunk.joint_stamp), (stamp_ms(100), stamp_ms(100)));
    assert_eq!((chunk.joints, chunk.actions.len()), (2, chunk.horizon * 2));
    assert!(chunk.actions.iter().all(|action| action.is_finite()));
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.chunks, snapshot.cameras.len()), (1, 1, 1));
}

#[test]
fn the_same_observation_gives_the_same_chunk_whatever_came_before() {
    let (_a, mut first) = robot();
    let (_b, mut second) = robot();
    chunk_at(&mut first, 100);
    assert_eq!(chunk_at(&mut first, 200).actions, chunk_at(&mut second, 200).actions);
    let (_c, mut other_seed) = robot_with(|settings| settings.seed = 2);
    assert_ne!(chunk_at(&mut first, 300).actions, chunk_at(&mut other_seed, 300).actions);
}

#[test]
fn a_new_prompt_and_fewer_steps_change_the_actions() {
    let (_a, mut one) = robot();
    let (_b, mut other) = robot();
    let (_c, mut short) = robot_with(|settings| settings.denoise_steps = vec![2]);
    other.prompt.put("stop").unwrap();
    let actions = chunk_at(&mut one, 100).actions;
    assert_ne!(actions, chunk_at(&mut other, 100).actions);
    assert_ne!(actions, chunk_at(&mut short, 100).actions);
}

#[test]
fn delta_actions_start_from_the_measured_joints() {
    let (_a, mut delta) = robot();
    let (_b, mut absolute) = robot_with(|settings| settings.delta_actions.clear());
    let (with, without) = (chunk_at(&mut delta, 100), chunk_at(&mut absolute, 100));
    for ((_, with), (_, without)) in with.points().zip(without.points()) {
        // The waist stands at 0.1; the elbow is absolute.
        assert!((with[0] - without[0] - 0.1).abs() < 1e-12 && with[1] == without[1]);
    }
}

#[test]
fn velocities_add_up_from_the_measured_joints() {
    let (_a, mut plain) = robot_with(|settings| settings.delta_actions.clear());
    let (_b, mut velocities) = robot_with(|settings| {
        settings.delta_actions.clear();
        settings.velocity_step = vec![0.2, 0.0];
    });
    let (actions, chunk) = (chunk_at(&mut plain, 100), chunk_at(&mut velocities, 100));
    // The waist stands at 0.1; the elbow's actions are positions.
    let mut waist = 0.1;
    for ((_, action), (_, found)) in actions.points().zip(chunk.points()) {
        waist += 0.2 * action[0];
        assert!((found[0] - waist).abs() < 1e-12 && found[1] == action[1]);
    }
}

#[test]
fn units_lead_to_the_model_and_back() {
    let (_a, mut plain) = robot();
    let (_b, mut scaled) = robot_with(|settings| {
        settings.joint_scale = vec![2.0, -0.5];
        settings.joint_offset = vec![0.0, 1.0];
    });
    let expected = chunk_at(&mut plain, 100);
    // The same place in other units: the model sees the waist at 0.1 and the elbow at 0.2.
    let (names, positions) = (["waist".to_owned(), "elbow".to_owned()], [0.05, 1.6]);
    let state = JointState { stamp: stamp_ms(100), names: &names, positions: &positions };
    put_image(&mut scaled, 100);
    scaled.joints.put(&state, stamp_ms(100)).unwrap();
    assert_eq!(scaled.cycle.step(stamp_ms(100)), Outcome::Chunk);
    let chunk = scaled.chunks.try_recv(stamp_ms(100)).unwrap();
    assert_eq!(chunk.measured, positions);
    for ((_, found), (_, expected)) in chunk.points().zip(expected.points()) {
        assert!((2.0 * found[0] - expected[0]).abs() < 1e-6, "{found:?} {expected:?}");
        assert!((1.0 - 0.5 * found[1] - expected[1]).abs() < 1e-6, "{found:?} {expected:?}");
    }
}

#[test]
fn without_fresh_joints_there_is_no_chunk() {
    let (_folder, mut wiring) = robot();
    put_image(&mut wiring, 100);
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Dropped(DropReason::JointsMissing));
    put_joints(&mut wiring, 150);
    put_image(&mut wiring, 700);
    assert_eq!(wiring.cycle.step(stamp_ms(700)), Outcome::Dropped(DropReason::JointsStale));
    put_joints(&mut wiring, 790);
    put_image(&mut wiring, 800);
    assert_eq!(wiring.cycle.step(stamp_ms(800)), Outcome::Chunk);
    assert!(wiring.chunks.try_recv(stamp_ms(800)).is_some());
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.chunks), (3, 1));
    assert_eq!(snapshot.dropped(DropReason::JointsMissing), 1);
    assert_eq!(snapshot.dropped(DropReason::JointsStale), 1);
}

#[test]
fn a_velocity_limit_changed_while_running_is_what_jumps_are_judged_by() {
    let (folder, mut wiring) = robot();
    let put = |joints: &mut JointInput, ms: i64, elbow: f64| {
        let state = JointState { positions: &[elbow, 0.1], ..joint_state(stamp_ms(ms)) };
        joints.put(&state, stamp_ms(ms)).map_err(|error| error.to_string())
    };
    put(&mut wiring.joints, 100, 0.0).unwrap();
    put(&mut wiring.joints, 110, 0.2).unwrap();
    let change = |wiring: &mut Wiring, limit: f64| {
        let mut settings = settings(folder.path());
        settings.limits.velocity_max = vec![limit, limit];
        let change = wiring.tuner.prepare(&settings).unwrap();
        wiring.tuner.apply(change, &[]);
    };
    change(&mut wiring, 1.0);
    let error = put(&mut wiring.joints, 120, 0.4).unwrap_err();
    assert!(error.contains("elbow was at 0.2000") && error.contains("faster than it can move"), "{error}");
    change(&mut wiring, 10.0);
    put(&mut wiring.joints, 130, 0.6).unwrap();
}

#[test]
fn refused_messages_change_nothing_and_are_counted() {
    let (_folder, mut wiring) = robot();
    put_joints(&mut wiring, 90);
    let data = [0; 10];
    let image = Image::rgb8(stamp_ms(100), (40, 60), &data);
    assert!(wiring.cameras[0].put_image(&image, stamp_ms(100)).is_err());
    let names = ["waist".to_owned()];
    assert!(
        wiring
            .joints
            .put(&JointState { stamp: Stamp(0), names: &names, positions: &[0.0, 1.0] }, Stamp(0))
            .is_err()
    );
    assert!(wiring.prompt.put(&"long ".repeat(100)).is_err());
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Idle);
    put_image(&mut wiring, 110);
    assert_eq!(wiring.cycle.step(stamp_ms(110)), Outcome::Chunk);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(110)).unwrap().joint_stamp, stamp_ms(90));
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.cameras[0].refused, snapshot.joints.refused, snapshot.prompts.refused), (1, 1, 1));
    assert!(snapshot.last_error.unwrap().contains("tokens long"));
}

#[test]
fn chunks_that_nobody_takes_give_way_to_newer_ones() {
    let (_folder, mut wiring) = robot();
    for ms in [100, 200, 300] {
        put_image(&mut wiring, ms);
        put_joints(&mut wiring, ms);
        assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    }
    assert_eq!(wiring.chunks.try_recv(stamp_ms(300)).unwrap().sequence, 2);
    assert_eq!(wiring.chunks.try_recv(stamp_ms(300)), None);
    assert_eq!(wiring.monitor.snapshot().dropped(DropReason::Overwritten), 2);
}

#[test]
fn joints_that_go_stale_while_the_model_looks_make_no_chunk() {
    let (_folder, mut wiring) = robot();
    put_image(&mut wiring, 100);
    put_joints(&mut wiring, 100);
    // The cycle asks for the time when it begins, before it perceives, and again before it acts.
    let asked = AtomicI64::new(0);
    let clock = || stamp_ms(if asked.fetch_add(1, SeqCst) < 2 { 100 } else { 601 });
    let outcome = wiring.cycle.step_in_time(&clock);
    assert_eq!(outcome, Outcome::Dropped(DropReason::JointsStale));
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.chunks), (1, 0));
    assert_eq!(snapshot.dropped(DropReason::JointsStale), 1);
}

#[test]
fn a_running_cycle_is_woken_by_its_inputs_and_ends_when_told() {
    let (_folder, wiring) = robot();
    let Wiring { mut cameras, mut joints, mut cycle, mut chunks, monitor, .. } = wiring;
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let clock = || Stamp(began.elapsed().as_nanos() as i64);
    thread::scope(|scope| {
        scope.spawn(|| cycle.run(clock, &stop));
        for sequence in 0..5 {
            let now = clock();
            joints.put(&joint_state(now), now).unwrap();
            cameras[0].put_image(&image(now), now).unwrap();
            assert!(chunks.wait(Duration::from_secs(20)), "a chunk for each frame");
            let send = |chunk: &Chunk, _: &Motion| -> Result<(), Infallible> {
                assert_eq!((chunk.sequence, chunk.observation), (sequence, now));
                Ok(())
            };
            assert_eq!(chunks.send(clock, send), Ok(true));
        }
        stop.store(true, SeqCst);
    });
    let snapshot = monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.chunks), (5, 5));
    assert!(snapshot.stage(Stage::Age).max_ms >= snapshot.stage(Stage::Cycle).max_ms);
}

/// Overwrites the first element of a bf16 tensor.
fn poison(folder: &Path, key: &str, value: half::bf16) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let start = file.tensor(key).unwrap().data().as_ptr().addr() - bytes.as_ptr().addr();
    bytes[start..start + 2].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).unwrap();
}

#[test]
fn actions_that_are_not_finite_never_leave() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    // The largest number is one; what it is multiplied with makes it infinite.
    poison(folder.path(), "action_out_proj.weight", half::bf16::MAX);
    let mut wiring = assemble(&settings(folder.path()), &Silent).unwrap();
    put_image(&mut wiring, 100);
    put_joints(&mut wiring, 100);
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Dropped(DropReason::NotFinite));
    assert_eq!(wiring.chunks.try_recv(stamp_ms(100)), None);
}

#[test]
fn settings_that_do_not_fit_the_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings(folder.path());
        change(&mut settings);
        assemble(&settings, &Silent).err().expect("these settings cannot be used").to_string()
    };
    assert!(refused(&|s| s.cameras.clear()).contains("'camera_topics'"));
    assert!(refused(&|s| s.joints.clear()).contains("'joints'"));
    assert!(refused(&|s| s.joints = (0..33).map(|i| i.to_string()).collect()).contains("33 joints"));
    assert!(refused(&|s| s.delta_actions = vec![3]).contains("delta_actions [3] covers 3 joints"));
    assert!(refused(&|s| s.device = "abacus".into()).contains("no device 'abacus'"));
    assert!(refused(&|s| s.checkpoint = "nowhere".into()).contains("nowhere"));
    let normalization = pi0_node::settings::Normalization::Checkpoint;
    assert!(refused(&|s| s.normalization = normalization.clone()).contains("normalization: none"));

    let foreign = folder.path().join("foreign.json");
    pi0_node::observe::write_small_tokenizer(&foreign, 2048).unwrap();
    let message = refused(&|s| {
        (s.tokenizer, s.prompt) = (Some(foreign.clone()), "pick up the cube and place it".into())
    });
    assert!(message.contains("this tokenizer is not the checkpoint's"), "{message}");
}
