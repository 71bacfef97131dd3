//! A loop that ran live, with a clock of its own and threads of its own, is recorded; `pi0_node replay` makes the same
//! chunks of the recording, bit for bit.

#[path = "support/program.rs"]
mod program;
#[path = "support/robot.rs"]
mod robot;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pi0_node::bag::messages::{
    Cycle, Float64MultiArray, Guide, JointState as JointStateMessage, JointTrajectory, StreamTick,
};
use pi0_node::bag::{
    Bag, CHUNK_TOPIC, CYCLE_TOPIC, ENABLE_TOPIC, GUIDE_TOPIC, PARAMETER_TOPIC, PROMPT_TOPIC, Recording,
    STREAM_TOPIC, Summary, cdr,
};
use pi0_node::control::{Chunk, Motion, Pace, TickState, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::policy::{Continuation, PolicyConfig};
use pi0_node::settings::{Settings, Value, write_parameters};
use pi0_node::telemetry::DropReason;
use program::{pi0_node, succeeds, text};
use robot::write_checkpoint_of;

const ARM_TOPIC: &str = "/arm/joint_trajectory";
const ELBOW_TOPIC: &str = "/elbow/commands";

fn values(checkpoint: &Path, join: &str) -> BTreeMap<String, Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
    let values = [
        ("checkpoint", text(checkpoint.to_str().unwrap())),
        ("threads", Value::Integer(1)),
        ("cameras", texts(&["base_0_rgb", "left_wrist_0_rgb"])),
        ("camera_topics", texts(&["/top", "/left"])),
        ("camera_missing", texts(&["wait", "mask"])),
        ("joints", texts(&["waist", "elbow"])),
        ("prompt", text("go")),
        ("normalization", text("none")),
        ("delta_actions", Value::Integers(vec![1, -1])),
        ("denoise_steps", Value::Integers(vec![6, 3, 1])),
        ("latency_budget_ms", Value::Float(12.0)),
        ("act_rate_hz", Value::Float(60.0)),
        ("chunk_join", text(join)),
        ("blend_ms", Value::Float(150.0)),
        ("max_image_age_ms", Value::Float(300.0)),
        ("interpolation", text("spline")),
        ("outputs", texts(&["arm", "elbow", "all"])),
        ("output_types", texts(&["trajectory", "positions", "joint_state"])),
        ("output_topics", texts(&[ARM_TOPIC, ELBOW_TOPIC, "~/all"])),
        ("output_joints", texts(&["elbow waist", "elbow", ""])),
        ("output_stamps", texts(&["zero", "observation", "observation"])),
        ("stream_hz", Value::Float(150.0)),
        ("dashboard", text("")),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn now() -> Stamp {
    Stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

/// A robot with two cameras of different rates, of which one falls silent. Somebody disables and enables it, gives it a new task,
/// and changes parameters. What must be in the recording is waited for, however slow the machine is.
fn run_live(wiring: Wiring, values: &BTreeMap<String, Value>) {
    let Wiring {
        mut cameras,
        mut joints,
        mut prompt,
        mut cycle,
        mut chunks,
        mut stream,
        enable,
        mut tuner,
        monitor,
        ..
    } = wiring;
    let (stop, holds) = (AtomicBool::new(false), AtomicU64::new(0));
    let sent = || monitor.snapshot().chunks;
    let refused = || monitor.snapshot().dropped(DropReason::StepLimit);
    let mut values = values.clone();
    let mut set = |name: &str, value: Value| {
        values.insert(name.to_owned(), value.clone());
        let change = tuner.prepare(&Settings::from_values(&values).unwrap()).unwrap();
        tuner.apply(change, &[(name, value)]);
    };
    let mut ticks = 0_u8;
    // Images for 40 ms, again and again until `done`.
    let mut feed_until = |with_left: bool, done: &dyn Fn(u32) -> bool| {
        for fed in 0..500 {
            if done(fed) {
                return;
            }
            ticks = ticks.wrapping_add(1);
            let data = [ticks.wrapping_mul(5); 60 * 40 * 3];
            let image = Image::rgb8(now(), (40, 60), &data);
            cameras[0].put_image(&image, now()).unwrap();
            if with_left && ticks.is_multiple_of(2) {
                cameras[1].put_image(&image, now()).unwrap();
            }
            thread::sleep(Duration::from_millis(40));
        }
        stop.store(true, SeqCst);
        panic!("waited in vain; {}", monitor.snapshot());
    };
    thread::scope(|scope| {
        scope.spawn(|| cycle.run(now, &stop));
        scope.spawn(|| stream.as_mut().unwrap().run(now, Pace::Machine, &stop, |_| {}));
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if chunks.wait(Duration::from_millis(20)) {
                    let note = |chunk: &Chunk, _: &Motion| {
                        holds.fetch_add(chunk.hold.is_some().into(), SeqCst);
                        Ok::<_, Infallible>(())
                    };
                    chunks.send(now, note).unwrap();
                }
            }
        });
        scope.spawn(|| {
            let names = ["waist".to_owned(), "elbow".to_owned()];
            let mut at = 0.0_f64;
            while !stop.load(SeqCst) {
                at += 0.005;
                let state =
                    JointState { stamp: now(), names: &names, positions: &[at.sin(), 0.3 * at.cos()] };
                joints.put(&state, now()).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        feed_until(true, &|fed| fed == 10);
        set("blend_ms", Value::Float(40.0));
        set("rtc_schedule", Value::Text("exp".into()));
        feed_until(true, &|fed| fed == 10);
        // A robot that still moves by the last chunk is told to hold.
        while holds.load(SeqCst) == 0 {
            enable.set(true);
            let before = sent();
            feed_until(true, &|_| sent() > before);
            enable.set(false);
            feed_until(true, &|fed| fed == 5 || holds.load(SeqCst) > 0);
        }
        // Long enough for the streams to see it.
        feed_until(true, &|fed| fed == 5);
        enable.set(true);
        feed_until(false, &|fed| fed == 12);
        set("chunk_join", Value::Text("replace".into()));
        assert!(prompt.put(&"too long ".repeat(100)).is_err());
        prompt.put("stop").unwrap();
        feed_until(false, &|fed| fed == 8);
        // No chunk keeps to this limit; and then there is none again.
        let before = refused();
        set("joint_step_max", Value::Floats(vec![1e-6; 2]));
        feed_until(false, &|_| refused() > before);
        let before = sent();
        set("joint_step_max", Value::Floats(Vec::new()));
        feed_until(false, &|_| sent() > before + 2);
        stop.store(true, SeqCst);
    });
}

fn record(folder: &Path, bag: &Path, config: &PolicyConfig, join: &str) -> Summary {
    write_checkpoint_of(folder, config);
    let values = values(folder, join);
    let mut wiring = assemble(&Settings::from_values(&values).unwrap(), &Silent).unwrap();
    let recording = Recording::start(&mut wiring, bag).unwrap();
    run_live(wiring, &values);
    write_parameters(&bag.join("parameters.yaml"), values.iter().map(|(name, value)| (name.as_str(), value)))
        .unwrap();
    recording.finish().unwrap()
}

fn messages(bag: &Path, topic: &str) -> Vec<Vec<u8>> {
    let mut bag = Bag::open(bag).unwrap();
    assert_eq!(bag.problems(), []);
    bag.messages(&[topic]).unwrap().map(|message| message.unwrap().data).collect()
}

#[test]
fn a_replay_of_a_recording_makes_the_same_chunks_bit_for_bit() {
    replayed_bit_for_bit(&PolicyConfig::TINY, "blend");
}

#[test]
fn a_replay_of_a_recording_with_the_state_in_the_prompt_does_too() {
    replayed_bit_for_bit(&PolicyConfig::PI05_TINY, "blend");
}

#[test]
fn a_replay_of_a_recording_with_guided_chunks_does_too() {
    let guides = replayed_bit_for_bit(&PolicyConfig::TINY, "guided");
    assert!(guides.len() > 5, "{guides:?}");
    assert!(guides.iter().any(|guide| guide.until > guide.delay && guide.delay > 0), "{guides:?}");
}

#[test]
fn a_replay_of_a_recording_with_given_points_does_too() {
    let config = PolicyConfig { continuation: Continuation::Given { most: 6 }, ..PolicyConfig::PI05_TINY };
    let guides = replayed_bit_for_bit(&config, "trained");
    assert!(guides.iter().any(|guide| guide.until > 0), "{guides:?}");
}

/// Gives what led its chunks.
fn replayed_bit_for_bit(config: &PolicyConfig, join: &str) -> Vec<Guide> {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("run");
    let summary = record(folder.path(), &bag, config, join);
    assert!(summary.dropped.is_empty(), "{summary}");
    assert_eq!(summary.written[PROMPT_TOPIC], 2);
    assert_eq!(summary.written[PARAMETER_TOPIC], 5);
    assert!(summary.written[ENABLE_TOPIC] >= 3, "{summary}");
    assert!(summary.written["/joint_states"] > summary.written["/left"], "{summary}");

    let recorded = messages(&bag, CHUNK_TOPIC);
    let cycles: Vec<Cycle> =
        messages(&bag, CYCLE_TOPIC).iter().map(|data| cdr::decode(data).unwrap()).collect();
    // It was a run in which the machine's speed mattered.
    assert!(recorded.len() > 10, "{summary}");
    assert!(cycles.iter().any(|cycle| cycle.image_stamps[1].sec == 0), "a camera was missing");
    assert!(cycles.iter().any(|cycle| cycle.image_stamps[1].sec != 0), "and was there");
    assert!(
        cycles.windows(2).any(|pair| pair[0].image_stamps == pair[1].image_stamps),
        "acts on the same set"
    );
    assert!(cycles.iter().any(|cycle| cycle.prompt == 2), "the second task");
    assert!(cycles.iter().any(|cycle| cycle.hold == "not_enabled" && cycle.sent), "a hold");
    assert!(cycles.iter().any(|cycle| cycle.refused == "step_limit"), "a limit that was set");
    assert!(cycles.iter().any(|cycle| cycle.parameters == 5 && cycle.refused.is_empty()), "and taken back");
    assert!(
        cycles.iter().all(|cycle| cycle.stages.len() == cycle.latencies_ms.len() && !cycle.stages.is_empty())
    );

    // Each output has its own of every chunk and tick.
    let ticks: Vec<StreamTick> =
        messages(&bag, STREAM_TOPIC).iter().map(|data| cdr::decode(data).unwrap()).collect();
    assert!(ticks.len() > 100, "{summary}");
    let firsts = ticks.iter().filter(|tick| tick.state == TickState::First.name()).count();
    assert!(firsts > 1 && ticks[0].state == TickState::First.name(), "it was disabled and begun anew");
    let arm = messages(&bag, ARM_TOPIC);
    assert_eq!(arm.len(), recorded.len());
    let trajectory: JointTrajectory = cdr::decode(&arm[0]).unwrap();
    let names = ["elbow".to_owned(), "waist".to_owned()];
    assert_eq!((trajectory.header.stamp.sec, &trajectory.joint_names[..]), (0, &names[..]));
    assert_eq!(trajectory.points.last().unwrap().velocities, [0.0, 0.0]);
    let elbow: Float64MultiArray = cdr::decode(&messages(&bag, ELBOW_TOPIC)[0]).unwrap();
    let all: Vec<JointStateMessage> =
        messages(&bag, "/pi0_node/all").iter().map(|data| cdr::decode(data).unwrap()).collect();
    assert_eq!((all.len(), all[0].position[1]), (ticks.len(), elbow.data[0]));
    assert_eq!(all[0].header.stamp, ticks[0].header.stamp);

    let output = folder.path().join("chunks.mcap");
    let table = succeeds(&["replay", bag.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    let replayed = messages(&output, CHUNK_TOPIC);
    let expected =
        format!("of {0} recorded chunks, {0} came out bit for bit, 0 differ; 0 cycles", recorded.len());
    assert!(table.contains(&expected), "{table}");
    let outputs = recorded.len() + 2 * ticks.len();
    let expected =
        format!("of {outputs} recorded messages of outputs, {outputs} came out bit for bit, 0 differ");
    assert!(table.contains(&expected), "{table}");
    assert_eq!(messages(&output, ELBOW_TOPIC).len(), ticks.len());
    assert_eq!(replayed.len(), recorded.len());
    for (replayed, recorded) in replayed.iter().zip(&recorded) {
        let stamp = cdr::decode::<JointTrajectory>(recorded).unwrap().header.stamp;
        assert!(replayed == recorded, "the chunk of {stamp:?} differs");
    }
    if !summary.written.contains_key(GUIDE_TOPIC) {
        return Vec::new();
    }
    messages(&bag, GUIDE_TOPIC).iter().map(|data| cdr::decode(data).unwrap()).collect()
}

#[test]
fn another_seed_differs_and_says_so_and_the_loop_may_choose_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("run");
    record(folder.path(), &bag, &PolicyConfig::TINY, "blend");
    let bag = bag.to_str().unwrap();
    let table = succeeds(&["replay", bag, "--seed", "5"]);
    assert!(table.contains(" differ; 0 cycles could not be repeated\n"), "{table}");
    assert!(table.contains("\n(other parameters"), "{table}");
    assert!(!table.contains(" 0 differ"), "{table}");
    let table = succeeds(&["replay", bag, "--ignore-cycles"]);
    assert!(table.contains("chunks out") && !table.contains("bit for bit"), "{table}");

    // A folder that is there already is not written into.
    let mut wiring =
        assemble(&Settings::from_values(&values(folder.path(), "blend")).unwrap(), &Silent).unwrap();
    assert!(Recording::start(&mut wiring, Path::new(bag)).is_err());
    let refused = pi0_node(&["replay", "tests/data/aloha_transfer_cube"]);
    assert!(text(&refused.stderr).contains("name the parameter file with --config FILE"));
}
