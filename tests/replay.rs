//! `pi0_node replay` on the recorded ALOHA bag: what comes out, that it is the same every time, and what is refused.

#[path = "support/bags.rs"]
mod bags;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::bag::messages::JointTrajectory;
use pi0_node::bag::{Bag, FileWriter, cdr};
use pi0_node::observe::messages::Stamp;
use program::{fails, pi0_node, succeeds, text};

const BAG: &str = "tests/data/aloha_transfer_cube";
const CONFIG: &str = "config/aloha.yaml";
const START: i64 = 1_700_000_000_000_000_000;

/// A random checkpoint of the smallest size, in `folder`/tiny.
fn tiny_checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("tiny");
    succeeds(&["checkpoint", "init", "--preset", "tiny", "--seed", "5", path.to_str().unwrap()]);
    path
}

fn arguments(bag: &str, checkpoint: &Path, config: &str, output: &Path, more: &[&str]) -> Vec<String> {
    let (checkpoint, output) = (checkpoint.to_str().unwrap(), output.to_str().unwrap());
    ["replay", bag, "--checkpoint", checkpoint, "--config", config, "--output", output, "--threads", "2"]
        .iter()
        .chain(more)
        .map(|&argument| argument.to_owned())
        .collect()
}

fn chunks(path: &Path) -> Vec<JointTrajectory> {
    let mut bag = Bag::open(path).unwrap();
    assert_eq!(bag.problems(), []);
    let messages = bag.messages(&["/pi0_node/action_chunk"]).unwrap();
    messages.map(|message| cdr::decode(&message.unwrap().data).unwrap()).collect()
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
    let latencies = folder.path().join("latencies");
    let more = ["--latencies", latencies.to_str().unwrap()];
    let table = succeeds(&arguments(BAG, &checkpoint, CONFIG, &output, &more));
    let written = fs::read_dir(&latencies).unwrap().next().unwrap().unwrap().path();
    assert!(
        written.join("perceive.hgrm").is_file() && table.contains("files with latencies are in"),
        "{table}"
    );
    for line in
        ["in: base_0_rgb", "in: joints", "frame sets", "chunks out", "perceive", "act", "40 chunks written"]
    {
        assert!(table.contains(line), "{line}: {table}");
    }
    let chunks = chunks(&output);
    assert_eq!(chunks.len(), 40);
    for (index, chunk) in chunks.iter().enumerate() {
        // The newest stamp of a set is the right wrist's, 4 ms after the top camera's.
        assert_eq!(Stamp::from(chunk.header.stamp), Stamp(START + index as i64 * 100_000_000 + 4_000_000));
        assert_eq!(chunk.joint_names.len(), 14);
        assert_eq!(chunk.joint_names[13], "right_gripper");
        // The set was complete a few milliseconds after that stamp, so the first of 50 points is past.
        assert_eq!(chunk.points.len(), 49);
        assert_eq!(chunk.points[0].time_from_start.nanosec, 20_000_000);
        assert_eq!(chunk.points[48].time_from_start.nanosec, 980_000_000);
        assert!(chunk.points.iter().flat_map(|point| &point.positions).all(|position| position.is_finite()));
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
    let (_, warnings) = replay(&bag, &checkpoint, &output);
    assert!(warnings.contains("cut.mcap: is cut short"), "{warnings}");
    let found = chunks(&output);
    assert!(found.len() > 10 && found.len() < 40, "{}", found.len());
}

/// The tables and the warnings of a replay, which must succeed.
fn replay(bag: &Path, checkpoint: &Path, output: &Path) -> (String, String) {
    let ran = pi0_node(&arguments(bag.to_str().unwrap(), checkpoint, CONFIG, output, &[]));
    let warnings = text(&ran.stderr);
    assert!(ran.status.success(), "{warnings}");
    (text(&ran.stdout), warnings)
}

/// The numbers of a row of a table.
fn row(table: &str, name: &str) -> Vec<u64> {
    let row =
        table.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {table}"));
    row.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_bag_with_a_damaged_chunk_gives_the_chunks_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let mut bytes = fs::read(Path::new(BAG).join("aloha_transfer_cube.mcap")).unwrap();
    let chunk = mcap::Summary::read(&bytes).unwrap().unwrap().chunk_indexes[2].chunk_start_offset as usize;
    // Where the compressed data begins.
    bytes[chunk + 53..chunk + 60].fill(0x5a);
    let bag = folder.path().join("damaged.mcap");
    fs::write(&bag, bytes).unwrap();
    let output = folder.path().join("chunks.mcap");
    let (table, warnings) = replay(&bag, &checkpoint, &output);
    assert_eq!(warnings.matches("warning: ").count(), 1, "{warnings}");
    assert!(warnings.contains(&format!("damaged.mcap: record at byte {chunk}: ")), "{warnings}");
    // Half a second of four is lost. It began and ended in the middle of a frame set, whose other frames are there.
    for camera in ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"] {
        assert_eq!(row(&table, &format!("in: {camera}")), [35, 0], "{table}");
        assert_eq!(row(&table, &format!("unmatched: {camera}")), [1], "{table}");
    }
    assert_eq!(chunks(&output).len(), 34, "{table}");
}

#[test]
fn a_damaged_database_gives_the_chunks_of_the_rest() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let bag = folder.path().join("damaged.db3");
    fs::copy("tests/data/bags/sqlite3/sqlite3.db3", &bag).unwrap();
    // The last joint state becomes so long that it gets pages of its own, of which one is lost.
    let database = rusqlite::Connection::open(&bag).unwrap();
    let last = "SELECT max(messages.id) FROM messages JOIN topics ON topics.id = topic_id WHERE name = '/joint_states'";
    let changed = database
        .execute(&format!("UPDATE messages SET data = ? WHERE id = ({last})"), [vec![0xab_u8; 4 * PAGE]])
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);
    let mut bytes = fs::read(&bag).unwrap();
    let lost = bytes.chunks_exact_mut(PAGE).find(|page| page[4..].iter().all(|&byte| byte == 0xab)).unwrap();
    lost.fill(0);
    // And a page with two messages.
    bytes[11 * PAGE..12 * PAGE].fill(0);
    fs::write(&bag, bytes).unwrap();

    let (table, warnings) = replay(&bag, &checkpoint, &folder.path().join("chunks.mcap"));
    assert_eq!(warnings.matches("warning: ").count(), 2, "{warnings}");
    assert!(warnings.contains("17 messages were found before that, 21 behind it"), "{warnings}");
    assert!(warnings.contains("message logged at 1700000000."), "{warnings}");
    let names = ["in: base_0_rgb", "in: left_wrist_0_rgb", "in: right_wrist_0_rgb", "in: joints"];
    let [received, refused] = [0, 1].map(|column| names.map(|name| row(&table, name)[column]));
    assert_eq!((received.iter().sum::<u64>(), refused), (37, [0, 0, 0, 1]), "{table}");
    assert!(row(&table, "chunks out")[0] >= 3, "{table}");
}

#[test]
fn what_cannot_be_decoded_and_what_finds_no_partner_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let bag = folder.path().join("changed.mcap");
    let mut number = std::collections::BTreeMap::new();
    bags::copy(Path::new(BAG), &bag, |topic, mut message| {
        let number = number.entry(topic.name.clone()).and_modify(|number| *number += 1).or_insert(0);
        match (topic.name.as_str(), *number) {
            ("/joint_states", 50..53) | ("/top/image_raw", 20) => message.data.truncate(30),
            // Not the same frame set.
            ("/left_wrist/image_raw/compressed", 30) => return None,
            _ => {}
        }
        Some(message)
    });
    let (table, warnings) = replay(&bag, &checkpoint, &folder.path().join("chunks.mcap"));
    // Of three joint states one is told, and all are counted.
    assert_eq!(warnings.matches("warning: ").count(), 2, "{warnings}");
    assert!(
        table.contains("complaint: joints: the message is damaged or of another type: ")
            && table.contains(" (3 times, first at 170000000"),
        "{table}"
    );
    for (name, expected) in [
        ("in: base_0_rgb", &[39, 1][..]),
        ("in: left_wrist_0_rgb", &[39, 0]),
        ("in: right_wrist_0_rgb", &[40, 0]),
        ("in: joints", &[197, 3]),
        ("frame sets", &[38]),
        ("unmatched: base_0_rgb", &[1]),
        ("unmatched: left_wrist_0_rgb", &[1]),
        ("unmatched: right_wrist_0_rgb", &[2]),
        ("chunks out", &[38]),
    ] {
        assert_eq!(row(&table, name), expected, "{name}: {table}");
    }
}

#[test]
fn a_rate_that_no_clock_can_follow_is_refused() {
    for rate in ["1e-30", "0", "1e9", "fast"] {
        let refused = pi0_node(&["replay", BAG, "--config", CONFIG, "--rate", rate]);
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains("must be a number from 0.001 to 1000, or max"), "{message}");
    }
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

    let empty = folder.path().join("empty.mcap");
    FileWriter::create(&empty).unwrap().finish().unwrap();
    let message = refused(empty.to_str().unwrap(), CONFIG);
    assert!(message.contains("empty.mcap has no messages"), "{message}");

    let message = refused(BAG, &with("/top/image_raw", "/head/image_raw"));
    assert!(
        message.contains("there are no messages on /head/image_raw") && message.contains("/top/image_raw (")
    );

    let message =
        refused(BAG, &with("[raw, compressed, compressed]", "[compressed, compressed, compressed]"));
    assert!(
        message.contains("/top/image_raw is sensor_msgs/msg/Image, but the configuration says"),
        "{message}"
    );

    let message = refused(BAG, &with("sync_tolerance_ms", "sync_tolerence_ms"));
    assert!(message.contains("sync_tolerence_ms") && message.contains("sync_tolerance_ms"), "{message}");

    let message = refused(BAG, &with("prompt: Transfer cube", &format!("prompt: {}", "cube ".repeat(60))));
    assert!(message.contains("tokens long; the model takes 48"), "{message}");

    let message = fails(&arguments(BAG, &checkpoint, CONFIG, &output, &["--latencies", "Cargo.toml"]));
    assert!(message.starts_with("error: cannot write into the folder Cargo.toml: "), "{message}");

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
            "joints left_hand have not come; names that came and are not in 'joints': left_gripper (on /joint_states)",
        ),
        (
            "sync_tolerance_ms: 20.0",
            "sync_tolerance_ms: 1.0",
            "no frames of all cameras were taken within sync_tolerance_ms (1): the last were ",
        ),
    ] {
        let config = changed_config(folder.path(), from, to);
        let message = fails(&arguments(BAG, &checkpoint, &config, &output, &[]));
        assert!(message.contains("the bag gave no chunk") && message.contains(reason), "{message}");
        assert!(!output.exists() && !folder.path().join("chunks.mcap.part").exists());
    }
}
