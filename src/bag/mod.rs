//! The rosbag2 edge: reads MCAP and sqlite3 bags, decodes CDR, writes action chunks and recordings as MCAP.
//! Called by `cli` for `replay` and `play`, by `node` for `record`.
//!
//! Opening a bag reads all of it once and keeps an index: which message is where, in order of time. What cannot be read
//! (a file cut short, a damaged chunk) is reported and passed over; everything else is used.

pub mod cdr;
pub mod commands;
mod compression;
mod database;
mod definitions;
mod folder;
mod mcap_file;
pub mod messages;
mod metadata;
pub mod parameters;
mod recorder;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::observe::messages::Stamp;

pub use cdr::CdrError;
pub use recorder::{
    CHUNK_TOPIC, CYCLE_TOPIC, ENABLE_TOPIC, GUIDE_TOPIC, NODE, PARAMETER_TOPIC, PROMPT_TOPIC, Recording,
    STREAM_TOPIC, Summary,
};
pub use writer::{FileWriter, WriteError};

/// A recording.
pub struct Bag {
    path: PathBuf,
    files: Vec<Box<dyn BagFile>>,
    topics: Vec<Topic>,
    /// Every message, in order of log time; equal times in order of reading.
    index: Vec<Entry>,
    /// Times of the first and the last message.
    span: (Stamp, Stamp),
    problems: Vec<BagProblem>,
    /// What compressed files became; they vanish with the bag.
    decompressed: Vec<tempfile::TempPath>,
}

/// Opens a file of a bag, which is of the kind that `name` says.
fn open_plain(path: &Path, name: &Path) -> Result<Box<dyn BagFile>, String> {
    match name.extension().and_then(|end| end.to_str()) {
        Some("mcap") => mcap_file::open(path).map(|file| Box::new(file) as _),
        Some("db3") => database::open(path).map(|file| Box::new(file) as _),
        _ => Err("this is no bag file; those end in .mcap or .db3, and with .zstd behind that if they are compressed".into()),
    }
}

/// One topic of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: String,
    /// Readable messages.
    pub count: u64,
}

/// One message as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Position in [`Bag::topics`].
    pub topic: usize,
    /// When the recorder received it.
    pub log_time: Stamp,
    /// CDR with its header.
    pub data: Vec<u8>,
}

/// A part of a bag that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BagProblem {
    pub file: PathBuf,
    pub message: String,
}

impl fmt::Display for BagProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// A message that was found when the bag was opened, but cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct UnreadableMessage {
    /// Position in [`Bag::topics`].
    pub topic: usize,
    pub problem: BagProblem,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    log_time: Stamp,
    file: usize,
    topic: usize,
    place: Place,
}

/// Where a message is within its file; what the numbers mean is the file's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    group: u64,
    index: u64,
}

/// One file of a bag, indexed.
trait BagFile {
    /// Name and type of each topic.
    fn topics(&self) -> &[(String, String)];
    /// Log time, topic and place of each message.
    fn index(&self) -> &[(Stamp, usize, Place)];
    /// The message at a place.
    fn read(&mut self, place: Place) -> Result<Vec<u8>, String>;
    /// What could not be read.
    fn problems(&self) -> &[String];
}

impl Bag {
    /// Opens a folder with `metadata.yaml`, or a bare `.mcap` or `.db3` file, compressed by rosbag2 (`.zstd`) or not. A bag without any message is an error.
    pub fn open(path: &Path) -> Result<Self, BagError> {
        let found = metadata::files(path)?;
        let mut bag = Self {
            path: path.into(),
            files: Vec::new(),
            topics: Vec::new(),
            index: Vec::new(),
            span: Default::default(),
            problems: found.problems,
            decompressed: Vec::new(),
        };
        for path in found.files {
            match bag.open_file(&path) {
                Ok(file) => bag.add(&path, file),
                Err(message) => bag.problems.push(BagProblem { file: path, message }),
            }
        }
        // A stable sort keeps messages of equal times in their order.
        bag.index.sort_by_key(|entry| entry.log_time);
        match (bag.index.first(), bag.index.last()) {
            (Some(first), Some(last)) => bag.span = (first.log_time, last.log_time),
            _ if bag.problems.is_empty() => return Err(BagError::Empty(path.into())),
            _ => return Err(BagError::Unreadable { path: path.into(), problems: bag.problems }),
        }
        Ok(bag)
    }

    /// Opens one file, decompressed if it must be.
    fn open_file(&mut self, path: &Path) -> Result<Box<dyn BagFile>, String> {
        let Some(inner) = compression::inner_name(path) else { return open_plain(path, path) };
        let (file, damage) = compression::file(path)?;
        self.problems.extend(damage.map(|message| BagProblem { file: path.into(), message }));
        let opened = open_plain(&file, &inner)?;
        // Not before the file has been opened, and until the bag is dropped.
        self.decompressed.push(file);
        Ok(opened)
    }

    fn add(&mut self, path: &Path, file: Box<dyn BagFile>) {
        let topics: Vec<usize> =
            file.topics().iter().map(|(name, type_name)| self.topic(name, type_name)).collect();
        for &(log_time, topic, place) in file.index() {
            let topic = topics[topic];
            self.topics[topic].count += 1;
            self.index.push(Entry { log_time, file: self.files.len(), topic, place });
        }
        let problems = file.problems().iter();
        self.problems
            .extend(problems.map(|message| BagProblem { file: path.into(), message: message.clone() }));
        self.files.push(file);
    }

    /// Number of a topic, which is new if no file before had it.
    fn topic(&mut self, name: &str, type_name: &str) -> usize {
        let known = self.topics.iter().position(|topic| topic.name == name && topic.type_name == type_name);
        known.unwrap_or_else(|| {
            self.topics.push(Topic { name: name.into(), type_name: type_name.into(), count: 0 });
            self.topics.len() - 1
        })
    }

    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// What could not be read when the bag was opened.
    pub fn problems(&self) -> &[BagProblem] {
        &self.problems
    }

    /// Times of the first and the last message.
    pub fn span(&self) -> (Stamp, Stamp) {
        self.span
    }

    /// The messages of some topics in order of log time. A message that cannot be read after all is an item too.
    pub fn messages(
        &mut self,
        topics: &[&str],
    ) -> Result<impl ExactSizeIterator<Item = Result<Message, UnreadableMessage>> + use<'_>, BagError> {
        let found = |name: &&str| self.topics.iter().any(|topic| topic.name == **name && topic.count > 0);
        if !topics.is_empty() && !topics.iter().any(found) {
            return Err(BagError::NoTopics {
                path: self.path.clone(),
                wanted: topics.iter().map(|&name| name.to_owned()).collect(),
                found: self.topics.clone(),
            });
        }
        let chosen: Vec<bool> =
            self.topics.iter().map(|topic| topics.contains(&topic.name.as_str())).collect();
        let entries: Vec<Entry> = self.index.iter().filter(|entry| chosen[entry.topic]).copied().collect();
        let (files, path) = (&mut self.files, &self.path);
        let mut read =
            move |entry: &Entry| files[entry.file].read(entry.place).and_then(compression::message);
        Ok(entries.into_iter().map(move |entry| match read(&entry) {
            Ok(data) => Ok(Message { topic: entry.topic, log_time: entry.log_time, data }),
            Err(message) => {
                let message = format!("message logged at {}: {message}", entry.log_time);
                Err(UnreadableMessage {
                    topic: entry.topic,
                    problem: BagProblem { file: path.clone(), message },
                })
            }
        }))
    }

    /// Topics by number of messages, for listings.
    pub fn describe(&self) -> String {
        list(&self.topics)
    }
}

fn list(topics: &[Topic]) -> String {
    let by_name: BTreeMap<&str, &Topic> = topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
    let lines = by_name
        .values()
        .map(|topic| format!("\n  {} ({}, {} messages)", topic.name, topic.type_name, topic.count));
    if topics.is_empty() { " nothing".into() } else { lines.collect() }
}

/// A bag that cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BagError {
    #[error("{}: {message}", .path.display())]
    NotABag { path: PathBuf, message: String },
    #[error("bag {}: nothing can be read:{}", .path.display(), .problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
    Unreadable { path: PathBuf, problems: Vec<BagProblem> },
    #[error("bag {} has no messages", .0.display())]
    Empty(PathBuf),
    #[error("bag {} has none of the topics {}; it has{}", .path.display(), .wanted.join(", "), list(.found))]
    NoTopics { path: PathBuf, wanted: Vec<String>, found: Vec<Topic> },
}
