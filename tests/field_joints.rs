//! Joint states as robots have them: in pieces, on several topics, between other people's messages, from two publishers at once; and
//! stamps that are missing. The recorded ALOHA bag, changed, through `pi0_node replay`.

#[path = "support/bags.rs"]
mod bags;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::bag::messages::{CompressedImage, Image, JointState, JointTrajectory, Time};
use pi0_node::bag::{Bag, Message, Topic, cdr};
use program::{fails, pi0_node, succeeds, text};

const BAG: &str = "tests/data/aloha_transfer_cube";
const CONFIG: &str = "config/aloha.yaml";
const JOINTS: &str = "/joint_states";

/// A folder with a checkpoint and a configuration in which each `(from, to)` is replaced.
struct Field {
    folder: tempfile::TempDir,
    config: PathBuf,
}

impl Field {
    fn new(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tiny = folder.path().join("tiny");
        succeeds(&["checkpoint", "init", "--preset", "tiny", "--seed", "5", tiny.to_str().unwrap()]);
        let mut config = fs::read_to_string(CONFIG).unwrap();
        for (from, to) in changes {
            assert!(config.contains(from), "{from}");
            config = config.replace(from, to);
        }
        let path = folder.path().join("config.yaml");
        fs::write(&path, config).unwrap();
        Self { config: path, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, bag: &Path, output: &str) -> Vec<String> {
        let paths = [bag.to_owned(), self.path("tiny"), self.config.clone(), self.path(output)];
        let [bag, checkpoint, config, output] = paths.map(|path| path.to_str().unwrap().to_owned());
        let mut arguments =
            ["replay", &bag, "--checkpoint", &checkpoint, "--config", &config].map(str::to_owned).to_vec();
        arguments.extend(["--output", &output, "--threads", "2"].map(str::to_owned));
        arguments
    }

    /// The chunks of a bag, its table and its warnings.
    fn replay(&self, bag: &Path) -> (Vec<JointTrajectory>, String, String) {
        let ran = pi0_node(&self.arguments(bag, "chunks.mcap"));
        assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
        let mut bag = Bag::open(&self.path("chunks.mcap")).unwrap();
        let messages = bag.messages(&["/pi0_node/action_chunk"]).unwrap();
        let chunks = messages.map(|message| cdr::decode(&message.unwrap().data).unwrap()).collect();
        (chunks, text(&ran.stdout), text(&ran.stderr))
    }

    /// Why a bag gives no chunk: the last line.
    fn refused(&self, bag: &Path) -> String {
        fails(&self.arguments(bag, "chunks.mcap")).lines().last().unwrap().to_owned()
    }

    /// The ALOHA bag with each joint state as what `pieces` makes of it: topics and messages.
    fn bag(&self, pieces: impl Fn(&JointState) -> Vec<(&'static str, JointState)>) -> PathBuf {
        let to = self.path("changed.mcap");
        bags::spread(Path::new(BAG), &to, |topic, message| {
            if topic.name != JOINTS {
                return vec![(topic.name.clone(), message)];
            }
            let state: JointState = cdr::decode(&message.data).unwrap();
            let pieces = pieces(&state).into_iter().enumerate();
            let encode = |(number, (topic, piece)): (usize, (&str, JointState))| {
                let log_time = pi0_node::observe::messages::Stamp(message.log_time.0 + 1000 * number as i64);
                (
                    topic.to_owned(),
                    Message { data: cdr::encode(&piece).unwrap(), log_time, ..message.clone() },
                )
            };
            pieces.map(encode).collect()
        });
        to
    }
}

/// Some of a state's joints.
fn some(state: &JointState, joints: &[usize]) -> JointState {
    JointState {
        header: state.header.clone(),
        name: joints.iter().map(|&joint| state.name[joint].clone()).collect(),
        position: joints.iter().map(|&joint| state.position[joint]).collect(),
        ..JointState::default()
    }
}

fn with_positions(state: &JointState, position: Vec<f64>) -> JointState {
    JointState { position, ..some(state, &(0..state.name.len()).collect::<Vec<_>>()) }
}

#[test]
fn arms_and_grippers_that_publish_apart_give_the_chunks_of_the_whole_state() {
    let field = Field::new(&[]);
    let (whole, table, _) = field.replay(Path::new(BAG));
    assert_eq!(whole.len(), 40, "{table}");
    let left: Vec<usize> = (0..7).collect();
    let right: Vec<usize> = (7..14).collect();
    let arms: Vec<usize> = (0..14).filter(|joint| joint % 7 != 6).collect();
    for (first, second) in [(&left, &right), (&right, &left), (&arms, &vec![6, 13])] {
        let bag = field.bag(|state| vec![(JOINTS, some(state, first)), (JOINTS, some(state, second))]);
        let (chunks, table, warnings) = field.replay(&bag);
        assert!(!warnings.contains("warning"), "{warnings}");
        assert!(table.contains("in: joints                          400          0"), "{table}");
        // The first frame set may come before the second half has.
        assert!(chunks.len() >= 39, "{table}");
        assert_eq!(chunks[chunks.len() - 39..], whole[1..]);
    }
}

#[test]
fn pieces_may_come_on_topics_of_their_own() {
    let field = Field::new(&[(
        "joint_states_topic: /joint_states",
        "joint_states_topic: [/left/states, /right/states]",
    )]);
    let (left, right): (Vec<usize>, Vec<usize>) = ((0..7).collect(), (7..14).collect());
    let bag =
        field.bag(|state| vec![("/left/states", some(state, &left)), ("/right/states", some(state, &right))]);
    let (chunks, ..) = field.replay(&bag);
    let (whole, ..) = Field::new(&[]).replay(Path::new(BAG));
    assert_eq!(chunks[chunks.len() - 39..], whole[1..]);
}

#[test]
fn a_half_that_stops_ends_the_chunks_and_is_named() {
    let field = Field::new(&[]);
    let (left, right): (Vec<usize>, Vec<usize>) = ((0..7).collect(), (7..14).collect());
    let start = 1_700_000_000;
    let bag = field.bag(|state| {
        let late = state.header.stamp.sec > start || state.header.stamp.nanosec > 300_000_000;
        let right = (!late).then(|| (JOINTS, some(state, &right)));
        [Some((JOINTS, some(state, &left))), right].into_iter().flatten().collect()
    });
    let (chunks, table, _) = field.replay(&bag);
    assert!((5..12).contains(&chunks.len()) && table.contains("dropped: joints_stale"), "{table}");
    // From the start, and the last line says which joints.
    let bag = field.bag(|state| vec![(JOINTS, some(state, &left))]);
    let refused = field.refused(&bag);
    assert!(
        refused.starts_with("error: the bag gave no chunk: joints right_waist, right_shoulder, ")
            && refused.ends_with(
                "right_gripper have not come (on /joint_states): set 'joints' to the robot's names, or 'joint_states_topic' to \
                 all topics that have them"
            ),
        "{refused}"
    );
}

#[test]
fn other_peoples_messages_on_the_topic_change_nothing() {
    let field = Field::new(&[]);
    let (whole, ..) = field.replay(Path::new(BAG));
    let bag = field.bag(|state| {
        let wheels = JointState { name: vec!["left_wheel".into()], position: vec![1.0], ..some(state, &[]) };
        let velocities = JointState { velocity: vec![0.0; 14], ..with_positions(state, Vec::new()) };
        vec![(JOINTS, state.clone()), (JOINTS, some(state, &[])), (JOINTS, velocities), (JOINTS, wheels)]
    });
    let (chunks, table, warnings) = field.replay(&bag);
    assert!(!warnings.contains("warning"), "{warnings}");
    assert!(table.contains("in: joints                          200          0"), "{table}");
    assert_eq!(chunks, whole);
}

#[test]
fn when_two_publishers_disagree_neither_is_believed() {
    let field = Field::new(&[]);
    let bag =
        field.bag(|state| vec![(JOINTS, state.clone()), (JOINTS, with_positions(state, vec![0.0; 14]))]);
    let ran = pi0_node(&field.arguments(&bag, "chunks.mcap"));
    let (table, warnings) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(1), "{table}");
    assert!(table.contains("dropped: joints_disagree"), "{table}");
    // The first, the tenth, the hundredth: the rest is counted.
    assert!(
        (1..=4).contains(&warnings.matches("faster than it can move: do two publishers disagree").count()),
        "{warnings}"
    );
    let last = warnings.lines().last().unwrap();
    assert!(last.starts_with("error: the bag gave no chunk: of "), "{last}");
    for said in [
        "joints_disagree. The joints jump: left_",
        " ms later is at ",
        "forgotten joint_state_publisher",
        "joint_velocity_max",
    ] {
        assert!(last.contains(said), "{said}: {last}");
    }
}

#[test]
fn a_single_jump_costs_a_second() {
    let field = Field::new(&[]);
    let start = 1_700_000_000;
    // All joints are elsewhere from the first second on, as after a reset.
    let bag = field.bag(|state| {
        let offset = if state.header.stamp.sec > start { 0.8 } else { 0.0 };
        let moved = state.position.iter().map(|position| position + offset).collect();
        vec![(JOINTS, with_positions(state, moved))]
    });
    let (chunks, table, _) = field.replay(&bag);
    assert_eq!(chunks.len(), 30, "{table}");
    assert!(table.contains("dropped: joints_disagree             10"), "{table}");
    assert!(table.contains("complaint: joints: left_waist was at "), "{table}");
}

/// Every image's stamp set to what `stamp` makes of it.
fn restamped(to: &Path, stamp: impl Fn(Time) -> Time) {
    bags::copy(Path::new(BAG), to, |topic: &Topic, mut message| {
        message.data = match topic.type_name.as_str() {
            Image::TYPE => {
                let mut image: Image = cdr::decode(&message.data).unwrap();
                image.header.stamp = stamp(image.header.stamp);
                cdr::encode(&image).unwrap()
            }
            CompressedImage::TYPE => {
                let mut image: CompressedImage = cdr::decode(&message.data).unwrap();
                image.header.stamp = stamp(image.header.stamp);
                cdr::encode(&image).unwrap()
            }
            _ => return Some(message),
        };
        Some(message)
    });
}

#[test]
fn cameras_without_stamps_are_named_and_work_by_their_arrival() {
    let field = Field::new(&[]);
    let bag = field.path("unstamped.mcap");
    restamped(&bag, |_| Time::default());
    let refused = field.refused(&bag);
    let trouble =
        "its stamps are 0: let the driver stamp its messages, or set camera_stamps to arrival for it";
    for camera in ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"] {
        assert!(refused.contains(&format!("{camera}: {trouble}")), "{refused}");
    }
    let by_arrival = Field::new(&[(
        "sync_tolerance_ms:",
        "camera_stamps: [arrival, arrival, arrival]\n    sync_tolerance_ms:",
    )]);
    let (chunks, table, warnings) = by_arrival.replay(&bag);
    assert_eq!(chunks.len(), 40, "{table}");
    assert!(!warnings.contains("warning"), "{warnings}");
}

#[test]
fn cameras_of_another_clock_are_named_with_how_far_it_is_off() {
    let field = Field::new(&[]);
    let bag = field.path("other_clock.mcap");
    for (seconds, said) in [(-37, "37.0 s behind the clock"), (20, "20.0 s ahead of the clock")] {
        restamped(&bag, |stamp| Time { sec: stamp.sec + seconds, ..stamp });
        let refused = field.refused(&bag);
        assert!(
            refused.contains("base_0_rgb: its stamps are ") && refused.contains("camera_stamps"),
            "{refused}"
        );
        assert!(refused.contains(said), "{refused}");
    }
}
