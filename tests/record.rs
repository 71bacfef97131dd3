//! A loop that ran live, with a clock of its own and threads of its own, is recorded; `pi0_node replay` makes the same
//! chunks of the recording, bit for bit.

#[path = "support/program.rs"]
mod program;
#[path = "support/robot.rs"]
mod robot;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pi0_node::bag::messages::{Cycle, JointTrajectory};
use pi0_node::bag::{
    Bag, CHUNK_TOPIC, CYCLE_TOPIC, ENABLE_TOPIC, PARAMETER_TOPIC, PROMPT_TOPIC, Recording, Summary, cdr,
};
use pi0_node::control::{Tuner, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::{Settings, Value, write_parameters};
use program::{pi0_node, succeeds, text};
use robot::write_checkpoint;

fn values(checkpoint: &Path) -> BTreeMap<String, Value> {
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
        ("chunk_join", text("blend")),
        ("blend_ms", Value::Float(150.0)),
        ("max_image_age_ms", Value::Float(300.0)),
        ("dashboard", text("")),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn now() -> Stamp {
    Stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

/// What somebody sets at a tick: another blend, none, a step that no chunk keeps to, any step again.
fn change_at(tick: u8) -> Option<(&'static str, Value)> {
    match tick {
        10 => Some(("blend_ms", Value::Float(40.0))),
        26 => Some(("chunk_join", Value::Text("replace".into()))),
        34 => Some(("joint_step_max", Value::Floats(vec![1e-6; 2]))),
        40 => Some(("joint_step_max", Value::Floats(Vec::new()))),
        _ => None,
    }
}

/// Two seconds of a robot with two cameras of different rates, of which one falls silent, a pause, a new task, and
/// changed parameters.
fn run_live(wiring: Wiring, values: &BTreeMap<String, Value>) {
    let Wiring { mut cameras, mut joints, mut prompt, mut cycle, mut chunks, enable, mut tuner, .. } = wiring;
    let mut values = values.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| cycle.run(now, &stop));
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if chunks.wait(Duration::from_millis(20)) {
                    chunks.send(now, |_| Ok::<_, Infallible>(())).unwrap();
                }
            }
        });
        scope.spawn(|| {
            let names = ["waist".to_owned(), "elbow".to_owned()];
            for tick in 0..400 {
                let at = f64::from(tick) * 0.005;
                let positions = [at.sin(), 0.3 * at.cos()];
                joints
                    .put(&JointState { stamp: now(), names: &names, positions: &positions }, now())
                    .unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        for tick in 0..50_u8 {
            let data = [tick.wrapping_mul(5); 60 * 40 * 3];
            let image =
                Image { stamp: now(), height: 40, width: 60, encoding: "rgb8", step: 180, data: &data };
            cameras[0].put_image(&image, now()).unwrap();
            if tick % 2 == 0 && tick < 24 {
                cameras[1].put_image(&image, now()).unwrap();
            }
            // The robot holds for a while.
            enable.set(!(18..22).contains(&tick));
            if let Some((name, value)) = change_at(tick) {
                values.insert(name.to_owned(), value.clone());
                let change = Tuner::prepare(&Settings::from_values(&values).unwrap()).unwrap();
                tuner.apply(change, &[(name, value)]);
            }
            if tick == 30 {
                assert!(prompt.put(&"too long ".repeat(100)).is_err());
                prompt.put("stop").unwrap();
            }
            thread::sleep(Duration::from_millis(40));
        }
        stop.store(true, SeqCst);
    });
}

fn record(folder: &Path, bag: &Path) -> Summary {
    write_checkpoint(folder);
    let values = values(folder);
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
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("run");
    let summary = record(folder.path(), &bag);
    assert!(summary.dropped.is_empty(), "{summary}");
    assert_eq!(summary.written[PROMPT_TOPIC], 2);
    assert_eq!((summary.written[PARAMETER_TOPIC], summary.written[ENABLE_TOPIC]), (4, 50));
    assert_eq!(summary.written["/joint_states"], 400);
    assert_eq!(summary.written["/left"], 12);

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
    assert!(cycles.iter().any(|cycle| cycle.parameters == 4 && cycle.refused.is_empty()), "and taken back");
    assert!(
        cycles.iter().all(|cycle| cycle.stages.len() == cycle.latencies_ms.len() && !cycle.stages.is_empty())
    );

    let output = folder.path().join("chunks.mcap");
    let table = succeeds(&["replay", bag.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    let replayed = messages(&output, CHUNK_TOPIC);
    let expected =
        format!("of {0} recorded chunks, {0} came out bit for bit, 0 differ; 0 cycles", recorded.len());
    assert!(table.contains(&expected), "{table}");
    assert_eq!(replayed.len(), recorded.len());
    for (replayed, recorded) in replayed.iter().zip(&recorded) {
        let stamp = cdr::decode::<JointTrajectory>(recorded).unwrap().header.stamp;
        assert!(replayed == recorded, "the chunk of {stamp:?} differs");
    }
}

#[test]
fn another_seed_differs_and_says_so_and_the_loop_may_choose_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("run");
    record(folder.path(), &bag);
    let bag = bag.to_str().unwrap();
    let table = succeeds(&["replay", bag, "--seed", "5"]);
    assert!(table.contains(" differ; 0 cycles could not be repeated\n(other parameters"), "{table}");
    assert!(!table.contains(" 0 differ"), "{table}");
    let table = succeeds(&["replay", bag, "--ignore-cycles"]);
    assert!(table.contains("chunks out") && !table.contains("bit for bit"), "{table}");

    // A folder that is there already is not written into.
    let mut wiring = assemble(&Settings::from_values(&values(folder.path())).unwrap(), &Silent).unwrap();
    assert!(Recording::start(&mut wiring, Path::new(bag)).is_err());
    let refused = pi0_node(&["replay", "tests/data/aloha_transfer_cube"]);
    assert!(text(&refused.stderr).contains("name the parameter file with --config FILE"));
}
