//! Reading the recorded bags (tests/data), whole and damaged, and writing chunks.

use std::fs;
use std::path::{Path, PathBuf};

use mcap::records::{ChunkIndex, op};
use pi0_node::bag::messages::{CompressedImage, Image, JointState, JointTrajectory};
use pi0_node::bag::{Bag, FileWriter, Message, cdr};
use pi0_node::observe::messages::Stamp;

const TOP: &str = "/top/image_raw";
const LEFT: &str = "/left_wrist/image_raw/compressed";
const RIGHT: &str = "/right_wrist/image_raw/compressed";
const JOINTS: &str = "/joint_states";
const ALL: [&str; 4] = [TOP, LEFT, RIGHT, JOINTS];
const START: i64 = 1_700_000_000_000_000_000;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Topic name, log time and bytes of a message.
type Found = (String, Stamp, Vec<u8>);

/// Every readable message of the known topics.
fn read_all(bag: &mut Bag) -> Vec<Found> {
    let names: Vec<String> = bag.topics().iter().map(|topic| topic.name.clone()).collect();
    let messages: Vec<Message> = bag.messages(&ALL).unwrap().map(|message| message.unwrap()).collect();
    messages
        .into_iter()
        .map(|message| (names[message.topic].clone(), message.log_time, message.data))
        .collect()
}

fn read(name: &str) -> Vec<Found> {
    let mut bag = Bag::open(&data(name)).unwrap();
    assert_eq!(bag.problems(), []);
    read_all(&mut bag)
}

#[test]
fn the_aloha_bag_has_three_cameras_and_fourteen_joints() {
    let messages = read("aloha_transfer_cube");
    let of = |topic: &'static str| messages.iter().filter(move |(name, ..)| name == topic);
    assert_eq!(ALL.map(|topic| of(topic).count()), [40, 40, 40, 200]);
    assert!(messages.is_sorted_by_key(|(_, time, _)| *time));

    let image: Image = cdr::decode(&of(TOP).next().unwrap().2).unwrap();
    assert_eq!((image.width, image.height, image.step, image.data.len()), (320, 240, 960, 230_400));
    assert_eq!((image.view().stamp, image.encoding.as_str()), (Stamp(START), "rgb8"));
    let left: CompressedImage = cdr::decode(&of(LEFT).nth(1).unwrap().2).unwrap();
    assert_eq!(left.view().stamp, Stamp(START + 102_000_000));
    assert!(left.data.starts_with(b"\xff\xd8"));
    let joints: JointState = cdr::decode(&of(JOINTS).next_back().unwrap().2).unwrap();
    assert_eq!(joints.name.len(), 14);
    assert_eq!((joints.name[0].as_str(), joints.name[13].as_str()), ("left_waist", "right_gripper"));
    assert!(joints.position.iter().all(|position| position.is_finite()));
}

#[test]
fn every_storage_gives_the_same_messages() {
    let plain = read("bags/plain");
    assert_eq!(plain.len(), 25 + 3 * 5);
    assert_eq!(read("bags/zstd"), plain);
    assert_eq!(read("bags/sqlite3"), plain);
    assert_eq!(read("bags/plain/plain.mcap"), plain);
    assert_eq!(read("bags/sqlite3/sqlite3.db3"), plain);
}

#[test]
fn a_file_cut_anywhere_gives_every_message_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    for (name, step) in [("bags/plain/plain.mcap", 1009), ("bags/zstd/zstd.mcap", 307)] {
        let whole = read(name);
        let bytes = fs::read(data(name)).unwrap();
        let mut most = 0;
        for length in (0..bytes.len()).step_by(step) {
            let cut = folder.path().join("cut.mcap");
            fs::write(&cut, &bytes[..length]).unwrap();
            let mut bag = match Bag::open(&cut) {
                Ok(bag) => bag,
                Err(error) => {
                    assert!(error.to_string().contains("nothing can be read:\n"), "{error}");
                    continue;
                }
            };
            let found = read_all(&mut bag);
            most = most.max(found.len());
            assert!(found.len() == whole.len() || !bag.problems().is_empty(), "{name} cut at {length}");
            // Within a topic nothing is missing before the last one found.
            for topic in ALL {
                let of = |messages: &[Found]| -> Vec<(Stamp, Vec<u8>)> {
                    messages.iter().filter(|m| m.0 == topic).map(|m| (m.1, m.2.clone())).collect()
                };
                let (found, whole) = (of(&found), of(&whole));
                assert_eq!(found[..], whole[..found.len()], "{name} cut at {length}: {topic}");
            }
        }
        assert!(most > whole.len() / 2, "{name}: at most {most} messages were read of a cut file");
    }
}

/// The bag with its bytes changed, its messages, and the problems found when it was opened.
fn damaged(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (Vec<Found>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(data(name)).unwrap();
    change(&mut bytes);
    let path = folder.path().join("damaged").with_extension(Path::new(name).extension().unwrap());
    fs::write(&path, bytes).unwrap();
    let mut bag = Bag::open(&path).unwrap();
    let problems = bag.problems().iter().map(|problem| problem.message.clone()).collect();
    (read_all(&mut bag), problems)
}

const ALOHA: &str = "aloha_transfer_cube/aloha_transfer_cube.mcap";

fn chunks(name: &str) -> Vec<ChunkIndex> {
    mcap::Summary::read(&fs::read(data(name)).unwrap()).unwrap().unwrap().chunk_indexes
}

#[test]
fn a_damaged_chunk_is_reported_and_the_rest_is_used() {
    let whole = read(ALOHA);
    let chunks = chunks(ALOHA);
    assert_eq!(chunks.len(), 9);
    // The first one describes the channels of all others.
    for chunk in chunks {
        let start = chunk.chunk_start_offset as usize;
        // Where the compressed data begins. These chunks have no checksum: a changed pixel would not be noticed.
        let (found, problems) = damaged(ALOHA, |bytes| bytes[start + 53..start + 60].fill(0x5a));
        let times = chunk.message_start_time as i64..=chunk.message_end_time as i64;
        let rest: Vec<_> = whole.iter().filter(|(_, time, _)| !times.contains(&time.0)).cloned().collect();
        assert!(rest.len() < whole.len() && found == rest, "chunk at {start}: {} messages", found.len());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("record at byte {start}: ")), "{problems:?}");
    }
}

#[test]
fn a_chunk_with_a_wrong_opcode_or_length_is_found_by_the_summary() {
    let whole = read(ALOHA);
    let start = chunks(ALOHA)[3].chunk_start_offset as usize;
    for byte in 0..9 {
        let (found, problems) = damaged(ALOHA, |bytes| bytes[start + byte] ^= 0x15);
        assert!(found == whole, "byte {byte}: {} messages, {problems:?}", found.len());
        let expected = format!("chunk at byte {start}: opcode or length is damaged; the summary's is used");
        assert_eq!(problems, [expected], "byte {byte}");
    }
}

#[test]
fn what_is_damaged_between_chunks_costs_no_chunk() {
    let whole = read(ALOHA);
    let chunk = &chunks(ALOHA)[3];
    let end = (chunk.chunk_start_offset + chunk.chunk_length) as usize;
    // The opcode and every byte of the length of what follows the chunk.
    for byte in 0..9 {
        let (found, problems) = damaged(ALOHA, |bytes| bytes[end + byte] ^= 0x5a);
        assert!(found == whole, "byte {byte}: {} messages, {problems:?}", found.len());
        assert_eq!(problems.len(), 1, "byte {byte}: {problems:?}");
    }
}

#[test]
fn a_summary_that_points_elsewhere_costs_nothing() {
    let whole = read(ALOHA);
    let offset = chunks(ALOHA)[3].chunk_start_offset.to_le_bytes();
    let bytes = fs::read(data(ALOHA)).unwrap();
    let place = bytes.windows(8).rposition(|window| window == offset).unwrap();
    for byte in 0..16 {
        let (found, problems) = damaged(ALOHA, |bytes| bytes[place + byte] ^= 0x15);
        assert!(found == whole && problems.is_empty(), "byte {byte}: {} messages, {problems:?}", found.len());
    }
}

/// Opcode, channel and sequence in front of the fifth joint state of the uncompressed bag.
fn fifth_joint_state(bytes: &[u8]) -> usize {
    let time = read("bags/plain").iter().filter(|(topic, ..)| topic == JOINTS).nth(4).unwrap().1;
    let time = time.0.to_le_bytes();
    let place = bytes.windows(8).position(|window| window == time).unwrap();
    place - (1 + 8 + 2 + 4)
}

#[test]
fn a_message_that_vanishes_without_a_trace_is_missed() {
    let (found, problems) = damaged("bags/plain/plain.mcap", |bytes| {
        let place = fifth_joint_state(bytes);
        assert_eq!(bytes[place], op::MESSAGE);
        bytes[place] = 0x45;
    });
    assert_eq!(found.len(), 39);
    assert_eq!(problems, ["39 messages can be found, but by its summary it has 40"]);
}

#[test]
fn a_chunk_that_no_summary_tells_of_does_not_vanish_silently() {
    let (found, problems) = damaged(ALOHA, |bytes| {
        let summary = mcap::read::footer(bytes).unwrap().summary_start as usize;
        bytes.truncate(summary);
        bytes[chunks(ALOHA)[3].chunk_start_offset as usize] = 0x46;
    });
    assert!((240..320).contains(&found.len()), "{}", found.len());
    assert!(problems.iter().any(|problem| problem.contains("there is no opcode 0x46")), "{problems:?}");
}

#[test]
fn no_damaged_byte_loses_messages_silently() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bags/zstd/zstd.mcap", "bags/plain/plain.mcap"] {
        let bytes = fs::read(data(name)).unwrap();
        let path = folder.path().join("damaged.mcap");
        for position in (8..bytes.len()).step_by(37) {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x5a;
            fs::write(&path, &damaged).unwrap();
            // Nothing is found, all is found, or a problem is told; and never is there a panic.
            if let Ok(mut bag) = Bag::open(&path) {
                let told = !bag.problems().is_empty();
                let found = bag.messages(&ALL).map_or(0, |messages| messages.filter(Result::is_ok).count());
                assert!(told || found == 40, "{name}, byte {position}: {found} messages and no problem");
            }
        }
    }
}

#[test]
fn an_attachment_too_short_for_its_fields_is_passed_over() {
    let whole = read("bags/plain/plain.mcap");
    let (found, problems) = damaged("bags/plain/plain.mcap", |bytes| {
        // Times, two empty texts and a length, but no checksum.
        let attachment = [&[op::ATTACHMENT][..], &32_u64.to_le_bytes(), &[0; 32]].concat();
        let summary = mcap::read::footer(bytes).unwrap().summary_start as usize;
        bytes.truncate(summary);
        bytes.extend(attachment);
    });
    assert_eq!(found, whole);
    assert_eq!(problems.len(), 1, "{problems:?}");
}

const DATABASE: &str = "bags/sqlite3/sqlite3.db3";
const PAGE: usize = 4096;

#[test]
fn a_damaged_page_of_a_database_is_reported_and_the_rest_is_used() {
    let whole = read(DATABASE);
    // A leaf in the middle of the messages' tree.
    let (found, problems) = damaged(DATABASE, |bytes| bytes[11 * PAGE..12 * PAGE].fill(0));
    assert_eq!(found.len(), 38);
    assert!(found.iter().all(|message| whole.contains(message)));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].ends_with("; 17 messages were found before that, 21 behind it"), "{problems:?}");
}

#[test]
fn a_database_cut_short_gives_the_messages_before_the_cut() {
    let whole = read(DATABASE);
    for (pages, messages) in [(1, 35), (8, 9)] {
        let (found, problems) = damaged(DATABASE, |bytes| bytes.truncate(bytes.len() - pages * PAGE));
        assert_eq!(found.len(), messages, "{problems:?}");
        assert!(found.iter().all(|message| whole.contains(message)));
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn bags_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Bag::open(path).err().unwrap().to_string();
    assert!(refused(&folder.path().join("none")).contains("there is no such bag"));
    assert!(refused(folder.path()).contains("it is no bag"));

    let text = folder.path().join("text.mcap");
    fs::write(&text, "this is text, and more than eight bytes of it").unwrap();
    assert!(refused(&text).contains("text.mcap: this is not an MCAP file"));

    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    let metadata = "rosbag2_bagfile_information:\n  relative_file_paths: [gone.mcap]\n";
    fs::write(broken.join("metadata.yaml"), metadata).unwrap();
    assert!(refused(&broken).contains("gone.mcap: metadata.yaml names this file, but it is not there"));
}

#[test]
fn a_bag_whose_metadata_are_damaged_is_read_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag");
    fs::create_dir(&bag).unwrap();
    fs::copy(data("bags/plain/plain.mcap"), bag.join("bag_0.mcap")).unwrap();
    let whole: u64 = Bag::open(&data("bags/plain")).unwrap().topics().iter().map(|topic| topic.count).sum();
    for (metadata, expected) in [
        ("", "missing field `rosbag2_bagfile_information`; every bag file of the folder is read"),
        ("rosbag2_bagfile_information: {", "; every bag file of the folder is read"),
        (
            "rosbag2_bagfile_information:\n  relative_file_paths: []\n",
            "it names no files (relative_file_paths); every bag",
        ),
    ] {
        fs::write(bag.join("metadata.yaml"), metadata).unwrap();
        let found = Bag::open(&bag).unwrap();
        let problem = found.problems()[0].to_string();
        assert!(problem.contains("metadata.yaml: ") && problem.contains(expected), "{problem}");
        assert_eq!(found.topics().iter().map(|topic| topic.count).sum::<u64>(), whole);
    }
}

#[test]
fn a_bag_without_the_topics_says_what_it_has() {
    let mut bag = Bag::open(&data("bags/plain")).unwrap();
    let error = bag.messages(&["/camera/image"]).err().unwrap().to_string();
    assert!(
        error.contains("/camera/image") && error.contains("/joint_states (sensor_msgs/msg/JointState, 25"),
        "{error}"
    );
}

#[test]
fn an_empty_bag_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.mcap");
    FileWriter::create(&path).unwrap().finish().unwrap();
    let error = Bag::open(&path).err().unwrap().to_string();
    assert!(error.contains("empty.mcap has no messages"), "{error}");
}

#[test]
fn chunks_are_read_back_as_written_and_written_the_same_every_time() {
    const TOPIC: &str = "/pi0_node/action_chunk";
    let folder = tempfile::tempdir().unwrap();
    let names = ["waist".to_owned(), "elbow".to_owned()];
    let points = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]];
    let chunk =
        JointTrajectory::new(Stamp(START), &names, points.iter().map(|row| &row[..]).enumerate(), 50.0);
    assert_eq!(chunk.points[2].time_from_start.nanosec, 40_000_000);
    let write = |name: &str| {
        let path = folder.path().join(name);
        let mut writer = FileWriter::create(&path).unwrap();
        writer.add_topic(TOPIC, JointTrajectory::TYPE).unwrap();
        for index in 0..3 {
            writer.write(TOPIC, &cdr::encode(&chunk).unwrap(), Stamp(START + index)).unwrap();
        }
        assert!(writer.write("/another", &[], Stamp(START)).is_err());
        assert!(!path.exists(), "a file gets its name when it is whole");
        assert_eq!(writer.finish().unwrap()[TOPIC], 3);
        path
    };
    let (a, b) = (write("a.mcap"), write("b.mcap"));
    assert_eq!(fs::read(&a).unwrap(), fs::read(b).unwrap());

    let mut bag = Bag::open(&a).unwrap();
    assert_eq!(bag.topics()[0].type_name, "trajectory_msgs/msg/JointTrajectory");
    let messages: Vec<Message> = bag.messages(&[TOPIC]).unwrap().map(Result::unwrap).collect();
    assert_eq!(messages.len(), 3);
    assert_eq!(cdr::decode::<JointTrajectory>(&messages[1].data).unwrap(), chunk);
}

#[test]
fn a_writer_that_is_dropped_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mcap");
    fs::write(&path, "before").unwrap();
    drop(FileWriter::create(&path).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn big_endian_messages_are_read_and_damaged_ones_refused() {
    // Time 1.000000002, frame "a", three empty lists.
    let big: Vec<u8> =
        [&[0, 0, 0, 0][..], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, b'a', 0, 0, 0], &[0; 16]].concat();
    let joints: JointState = cdr::decode(&big).unwrap();
    assert_eq!((joints.view().stamp, joints.header.frame_id.as_str()), (Stamp(1_000_000_002), "a"));

    let image = Image { encoding: "rgb8".into(), data: vec![7; 100], ..Default::default() };
    let bytes = cdr::encode(&image).unwrap();
    assert_eq!(cdr::decode::<Image>(&bytes).unwrap(), image);
    for length in 0..bytes.len() {
        assert!(cdr::decode::<Image>(&bytes[..length]).is_err(), "cut at {length}");
    }
    // A length of 4 GiB in a message of 100 bytes.
    let mut hostile = bytes;
    let at = hostile.len() - 104;
    hostile[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(cdr::decode::<Image>(&hostile).is_err());
    assert!(cdr::decode::<JointState>(&[0, 3, 0, 0, 1, 2]).unwrap_err().to_string().contains("[0, 3]"));
}
