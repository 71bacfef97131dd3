//! `pi0_node replay` on the recorded ALOHA bag: what comes out, that it is the same every time, and what is refused.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::bag::messages::JointTrajectory;
use pi0_node::bag::{Bag, cdr};
use pi0_node::observe::messages::Stamp;
use program::{fails, succeeds};

const BAG: &str = "tests/data/aloha_transfer_cube";
const CONFIG: &str = "config/aloha.yaml";
const START: i64 = 1_700_000_000_000_000_000;

/// A random checkpoint of the smallest size, in `folder`/tiny.
fn tiny_checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("tiny");
    succeeds(&[
        "checkpoint",
        "init",
        "--preset",
        "tiny",
        "--seed",
        "5",
        path.to_str().unwrap(),
    ]);
    path
}

fn arguments(bag: &str, checkpoint: &Path, config: &str, output: &Path, more: &[&str]) -> Vec<String> {
    let (checkpoint, output) = (checkpoint.to_str().unwrap(), output.to_str().unwrap());
    [
        "replay",
        bag,
        "--checkpoint",
        checkpoint,
        "--config",
        config,
        "--output",
        output,
        "--threads",
        "2",
    ]
    .iter()
    .chain(more)
    .map(|&argument| argument.to_owned())
    .collect()
}

fn chunks(path: &Path) -> Vec<JointTrajectory> {
    let mut bag = Bag::open(path).unwrap();
    assert_eq!(bag.problems(), []);
    let messages = bag.messages(&["/pi0_node/action_chunk"]).unwrap();
    messages
        .map(|message| cdr::decode(&message.unwrap().data).unwrap())
        .collect()
}

/// The committed configuration with `from` replaced by `to`, as a file in `folder`.
fn changed_config(folder: &Path, from: &str, to: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIG)).unwrap();
    assert!(text.contains(from), "{from}");
    let path = folder.join("changed.yaml");
    fs::write(&path, text.replace(from, to)).unwrap();
    path.display().to_string()
}

#[test]
fn every_frame_set_becomes_a_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let output = folder.path().join("chunks.mcap");
    let table = succeeds(&arguments(BAG, &checkpoint, CONFIG, &output, &[]));
    for line in [
        "in: base_0_rgb",
        "in: joints",
        "frame sets",
        "chunks out",
        "perceive",
        "act",
        "40 chunks written",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let chunks = chunks(&output);
    assert_eq!(chunks.len(), 40);
    for (index, chunk) in chunks.iter().enumerate() {
        // The newest stamp of a set is the right wrist's, 4 ms after the top camera's.
        assert_eq!(
            Stamp::from(chunk.header.stamp),
            Stamp(START + index as i64 * 100_000_000 + 4_000_000)
        );
        assert_eq!(chunk.joint_names.len(), 14);
        assert_eq!(chunk.joint_names[13], "right_gripper");
        assert_eq!(chunk.points.len(), 50);
        assert_eq!(chunk.points[49].time_from_start.nanosec, 980_000_000);
        assert!(
            chunk
                .points
                .iter()
                .flat_map(|point| &point.positions)
                .all(|position| position.is_finite())
        );
    }
    assert_ne!(chunks[0].points, chunks[1].points);
}

#[test]
fn the_same_seed_gives_the_same_bytes_at_any_rate_and_another_seed_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let replay = |name: &str, more: &[&str]| -> Vec<u8> {
        let output: PathBuf = folder.path().join(name);
        succeeds(&arguments(BAG, &checkpoint, CONFIG, &output, more));
        fs::read(output).unwrap()
    };
    let first = replay("first.mcap", &["--seed", "3"]);
    assert_eq!(replay("second.mcap", &["--seed", "3"]), first);
    assert_eq!(replay("paced.mcap", &["--seed", "3", "--rate", "20"]), first);
    assert_ne!(replay("other.mcap", &["--seed", "4"]), first);
}

#[test]
fn a_camera_without_a_topic_is_absent() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let config = changed_config(folder.path(), "/left_wrist/image_raw/compressed,", "\"\",");
    let output = folder.path().join("chunks.mcap");
    let table = succeeds(&arguments(BAG, &checkpoint, &config, &output, &[]));
    assert!(!table.contains("in: left_wrist_0_rgb"), "{table}");
    assert_eq!(chunks(&output).len(), 40);
}

#[test]
fn a_bag_cut_short_gives_the_chunks_of_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let whole = fs::read(Path::new(BAG).join("aloha_transfer_cube.mcap")).unwrap();
    let bag = folder.path().join("cut.mcap");
    fs::write(&bag, &whole[..whole.len() * 2 / 3]).unwrap();
    let output = folder.path().join("chunks.mcap");
    let arguments = arguments(bag.to_str().unwrap(), &checkpoint, CONFIG, &output, &[]);
    let ran = program::pi0_node(&arguments);
    let warnings = program::text(&ran.stderr);
    assert!(ran.status.success(), "{warnings}");
    assert!(warnings.contains("cut.mcap: is cut short"), "{warnings}");
    let found = chunks(&output);
    assert!(found.len() > 10 && found.len() < 40, "{}", found.len());
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let output = folder.path().join("chunks.mcap");
    let refused = |bag: &str, config: &str| fails(&arguments(bag, &checkpoint, config, &output, &[]));
    let with = |from: &str, to: &str| changed_config(folder.path(), from, to);

    let message = refused("tests/data/no_such_bag", CONFIG);
    assert!(message.contains("no_such_bag: there is no such bag"), "{message}");

    let message = refused(BAG, &with("/top/image_raw", "/head/image_raw"));
    assert!(
        message.contains("there are no messages on /head/image_raw") && message.contains("/top/image_raw (")
    );

    let message = refused(
        BAG,
        &with(
            "[raw, compressed, compressed]",
            "[compressed, compressed, compressed]",
        ),
    );
    assert!(
        message.contains("/top/image_raw is sensor_msgs/msg/Image, but the configuration says"),
        "{message}"
    );

    let message = refused(BAG, &with("sync_tolerance_ms", "sync_tolerence_ms"));
    assert!(
        message.contains("sync_tolerence_ms") && message.contains("sync_tolerance_ms"),
        "{message}"
    );

    let message = refused(
        BAG,
        &with(
            "prompt: Transfer cube",
            &format!("prompt: {}", "cube ".repeat(60)),
        ),
    );
    assert!(message.contains("tokens long; the model takes 48"), "{message}");

    fs::remove_dir_all(checkpoint.join("assets")).unwrap();
    let message = refused(BAG, CONFIG);
    assert!(message.contains("normalization: none"), "{message}");
    assert!(!output.exists());
}

#[test]
fn without_a_chunk_the_reason_is_told_and_no_file_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let output = folder.path().join("chunks.mcap");
    for (from, to, reason) in [
        (
            "left_gripper",
            "left_hand",
            "joints left_hand are not in the message",
        ),
        (
            "sync_tolerance_ms: 20.0",
            "sync_tolerance_ms: 1.0",
            "0 frame sets were complete",
        ),
    ] {
        let config = changed_config(folder.path(), from, to);
        let message = fails(&arguments(BAG, &checkpoint, &config, &output, &[]));
        assert!(
            message.contains("the bag gave no chunk") && message.contains(reason),
            "{message}"
        );
        assert!(!output.exists() && !folder.path().join("chunks.mcap.part").exists());
    }
}
