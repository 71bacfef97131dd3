//! The control loop with pi0.5, which has the joint state in its prompt: read when the cycle begins, a new prompt for each.

#[path = "support/robot.rs"]
mod robot;

use std::fs;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use pi0_node::control::{Chunk, Outcome, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::policy::{PolicyConfig, StateInput, Variant};
use pi0_node::settings::Settings;
use pi0_node::telemetry::{DropReason, Stage};
use robot::{put_image, put_positions, settings, stamp_ms, write_checkpoint_of};
use tempfile::TempDir;

fn robot() -> (TempDir, Wiring) {
    robot_with(StateInput::Prompt { padded: false }, |_| {})
}

fn robot_with(state: StateInput, change: impl FnOnce(&mut Settings)) -> (TempDir, Wiring) {
    let folder = tempfile::tempdir().unwrap();
    let variant = Variant { state, ..Variant::PI05 };
    write_checkpoint_of(folder.path(), &PolicyConfig { variant, ..PolicyConfig::PI05_TINY });
    // Absolute actions: what differs with the state is what the model makes of it.
    let mut settings = Settings { delta_actions: Vec::new(), ..settings(folder.path()) };
    change(&mut settings);
    let wiring = assemble(&settings, &Silent).unwrap();
    (folder, wiring)
}

/// Frame and joints at a time, and the chunk they lead to.
fn chunk_at(wiring: &mut Wiring, ms: i64, positions: [f64; 2]) -> Chunk {
    put_image(wiring, ms);
    put_positions(wiring, ms, positions);
    assert_eq!(wiring.cycle.step(stamp_ms(ms)), Outcome::Chunk);
    wiring.chunks.try_recv(stamp_ms(ms)).unwrap()
}

#[test]
fn the_state_is_what_the_prompt_says_in_256_bins() {
    let actions = |positions| {
        let (_a, mut fresh) = robot();
        let (_b, mut other) = robot();
        chunk_at(&mut other, 50, [-0.9, 1.0]);
        let found = chunk_at(&mut fresh, 1000, positions).actions;
        assert_eq!(found, chunk_at(&mut other, 1000, positions).actions, "whatever came before");
        found
    };
    let here = actions([0.1, 0.2]);
    // 0.1 and 0.101 are in the same bin, 0.11 in the next.
    assert_eq!(here, actions([0.101, 0.2]));
    assert_ne!(here, actions([0.11, 0.2]));
    assert_ne!(here, actions([0.1, 0.21]));
    // Numbers of one, two and three digits: prompts of other lengths.
    assert_ne!(actions([-0.95, -1.0]), actions([1.0, 0.9]));
}

#[test]
fn a_state_outside_the_bins_is_clamped_and_counted() {
    let (_folder, mut wiring) = robot();
    let inside = chunk_at(&mut wiring, 100, [1.0, 0.0]).actions;
    assert_eq!(wiring.monitor.snapshot().clamped_states, 0);
    let (_other, mut wiring) = robot();
    assert_eq!(inside, chunk_at(&mut wiring, 100, [1.5, 0.0]).actions);
    chunk_at(&mut wiring, 200, [1.5, -3.0]);
    let snapshot = wiring.monitor.snapshot();
    assert_eq!(snapshot.clamped_states, 2);
    assert!(snapshot.to_string().contains("states outside the bins               2"), "{snapshot}");
}

#[test]
fn the_state_is_taken_when_the_cycle_begins() {
    let (_folder, mut wiring) = robot();
    put_image(&mut wiring, 100);
    assert_eq!(wiring.cycle.step(stamp_ms(100)), Outcome::Dropped(DropReason::JointsMissing));
    assert_eq!(
        wiring.monitor.snapshot().stage(Stage::Perceive).count,
        0,
        "there was nothing to perceive with"
    );
    put_positions(&mut wiring, 150, [0.1, 0.2]);
    put_image(&mut wiring, 700);
    assert_eq!(wiring.cycle.step(stamp_ms(700)), Outcome::Dropped(DropReason::JointsStale));

    // Its age is that of this moment, however long the model looks.
    put_image(&mut wiring, 800);
    put_positions(&mut wiring, 790, [0.1, 0.2]);
    let asked = AtomicI64::new(0);
    let clock = || stamp_ms(if asked.fetch_add(1, SeqCst) < 2 { 800 } else { 1295 });
    assert_eq!(wiring.cycle.step_in_time(&clock), Outcome::Chunk);
    put_positions(&mut wiring, 1000, [0.3, 0.2]);
    put_image(&mut wiring, 1000);
    let asked = AtomicI64::new(0);
    let clock = || stamp_ms(if asked.fetch_add(1, SeqCst) < 2 { 1005 } else { 1090 });
    assert_eq!(wiring.cycle.step_in_time(&clock), Outcome::Chunk);
    let chunk = wiring.chunks.try_recv(stamp_ms(1090)).unwrap();
    assert_eq!((chunk.used.looked, chunk.used.acted), (stamp_ms(1005), stamp_ms(1005)));
    assert_eq!(chunk.joint_stamp, stamp_ms(1000));
}

#[test]
fn a_newer_state_between_frame_sets_is_perceived_with_the_same_images() {
    let (_folder, mut wiring) =
        robot_with(StateInput::Prompt { padded: false }, |settings| settings.act_rate_hz = 20.0);
    chunk_at(&mut wiring, 100, [-0.9, -0.9]);
    put_positions(&mut wiring, 160, [0.9, 0.9]);
    assert_eq!(wiring.cycle.step(stamp_ms(160)), Outcome::Chunk);
    let again = wiring.chunks.try_recv(stamp_ms(160)).unwrap();
    assert_eq!(wiring.cycle.step(stamp_ms(161)), Outcome::Idle);
    let snapshot = wiring.monitor.snapshot();
    assert_eq!((snapshot.frame_sets, snapshot.stage(Stage::Perceive).count), (1, 2));

    // As if the images had come with this state.
    let (_other, mut fresh) = robot();
    put_image(&mut fresh, 100);
    put_positions(&mut fresh, 160, [0.9, 0.9]);
    assert_eq!(fresh.cycle.step(stamp_ms(160)), Outcome::Chunk);
    assert_eq!(again.actions, fresh.chunks.try_recv(stamp_ms(160)).unwrap().actions);
}

#[test]
fn a_state_that_is_padded_or_no_input_at_all() {
    let actions = |state, positions| {
        let (_folder, mut wiring) = robot_with(state, |_| {});
        chunk_at(&mut wiring, 100, positions).actions
    };
    let (plain, padded) = (StateInput::Prompt { padded: false }, StateInput::Prompt { padded: true });
    assert_ne!(actions(plain, [0.1, 0.2]), actions(padded, [0.1, 0.2]));
    assert_ne!(actions(padded, [0.1, 0.3]), actions(padded, [0.1, 0.2]));
    assert_eq!(actions(StateInput::Nowhere, [0.1, 0.2]), actions(StateInput::Nowhere, [0.7, 0.2]));
}

#[test]
fn a_prompt_has_to_fit_with_the_longest_state() {
    let folder = tempfile::tempdir().unwrap();
    let config = PolicyConfig { prompt_tokens: 50, ..PolicyConfig::PI05_TINY };
    write_checkpoint_of(folder.path(), &config);
    let mut wiring = assemble(&settings(folder.path()), &Silent).unwrap();
    // `<bos>Task: , State:` has 15 tokens, each number up to four, `;<newline>Action: ` ten.
    let error = wiring.prompt.put(&"x".repeat(18)).unwrap_err().to_string();
    assert!(
        error.contains("can be 51 tokens long with a state of 2 numbers; the model takes 50: shorten it"),
        "{error}"
    );
    wiring.prompt.put(&"x".repeat(17)).unwrap();
    // The longest numbers.
    chunk_at(&mut wiring, 100, [0.99, 0.99]);
}

#[test]
fn a_tokenizer_that_joins_numbers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint_of(folder.path(), &PolicyConfig::PI05_TINY);
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // `5▁` in place of a letter, and of all other merges.
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocabulary.remove("z").unwrap();
    vocabulary.insert("5▁".into(), id);
    tokenizer["model"]["merges"] = serde_json::json!([["5", "▁"]]);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let error = assemble(&settings(folder.path()), &Silent).err().unwrap().to_string();
    assert!(error.contains("this tokenizer joins the numbers of a state"), "{error}");
}
