//! Writes a rosbag2 folder: one MCAP file with compressed chunks, and metadata.yaml once it is complete. Called by the
//! recorder's thread. Whoever kills the program leaves a file without metadata, which readers can still read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;
use mcap::{Compression, WriteOptions, Writer};
use serde::Serialize;

use super::definitions;
use super::writer::WriteError;
use crate::observe::messages::Stamp;

/// Messages are compressed together until they are so many bytes.
const CHUNK_BYTES: u64 = 4 << 20;

/// A bag under construction.
pub(super) struct FolderWriter {
    folder: PathBuf,
    file: String,
    writer: Writer<BufWriter<File>>,
    topics: BTreeMap<String, Channel>,
    /// Times of the first and the last message.
    span: Option<(Stamp, Stamp)>,
}

struct Channel {
    id: u16,
    type_name: &'static str,
    count: u32,
}

impl FolderWriter {
    /// Makes the folder, which must not be there yet.
    pub fn create(folder: &Path) -> Result<Self, WriteError> {
        let fail = |message: String| WriteError { path: folder.into(), message };
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| fail("this is no name for a new folder".into()))?;
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(|error| fail(error.to_string()))?;
        }
        fs::create_dir(folder).map_err(|error| fail(error.to_string()))?;
        let file = format!("{name}_0.mcap");
        let created = File::create(folder.join(&file)).map_err(|error| fail(error.to_string()))?;
        let options = WriteOptions::new()
            .profile("ros2")
            .library(concat!("pi0_node ", env!("CARGO_PKG_VERSION")))
            .compression(Some(Compression::Zstd))
            // No threads of its own: they would take cores from the loop.
            .compression_threads(0)
            .compression_level(1)
            .chunk_size(Some(CHUNK_BYTES));
        let writer = options.create(BufWriter::new(created)).map_err(|error| fail(error.to_string()))?;
        Ok(Self { folder: folder.into(), file, writer, topics: BTreeMap::new(), span: None })
    }

    /// Adds a message of the type, which [`definitions`] knows.
    pub fn write(
        &mut self,
        topic: &str,
        type_name: &'static str,
        log_time: Stamp,
        data: &[u8],
    ) -> Result<(), WriteError> {
        let written = self.try_write(topic, type_name, log_time, data);
        written.map_err(|error| self.error(&error))
    }

    fn try_write(
        &mut self,
        topic: &str,
        type_name: &'static str,
        log_time: Stamp,
        data: &[u8],
    ) -> mcap::McapResult<()> {
        if !self.topics.contains_key(topic) {
            let schema =
                self.writer.add_schema(type_name, "ros2msg", definitions::of(type_name).as_bytes())?;
            let id = self.writer.add_channel(schema, topic, "cdr", &BTreeMap::new())?;
            self.topics.insert(topic.to_owned(), Channel { id, type_name, count: 0 });
        }
        let Some(channel) = self.topics.get_mut(topic) else { return Ok(()) };
        let time = u64::try_from(log_time.0).unwrap_or(0);
        let header = MessageHeader {
            channel_id: channel.id,
            sequence: channel.count,
            log_time: time,
            publish_time: time,
        };
        self.writer.write_to_known_channel(&header, data)?;
        channel.count += 1;
        let (first, last) = self.span.unwrap_or((log_time, log_time));
        self.span = Some((first.min(log_time), last.max(log_time)));
        Ok(())
    }

    /// Completes the file and writes metadata.yaml. Returns how many messages there are by topic.
    pub fn finish(mut self) -> Result<BTreeMap<String, u64>, WriteError> {
        self.writer.finish().map_err(|error| self.error(&error))?;
        let text = serde_yaml_ng::to_string(&self.metadata()).map_err(|error| self.error(&error))?;
        fs::write(self.folder.join("metadata.yaml"), text).map_err(|error| self.error(&error))?;
        Ok(self.topics.into_iter().map(|(name, channel)| (name, channel.count.into())).collect())
    }

    fn metadata(&self) -> Metadata<'_> {
        let (first, last) = self.span.unwrap_or_default();
        let duration = Nanoseconds { nanoseconds: last.0.saturating_sub(first.0) };
        let starting_time = SinceEpoch { nanoseconds_since_epoch: first.0 };
        let message_count = self.topics.values().map(|channel| u64::from(channel.count)).sum();
        let topic = |(name, channel): (&'_ String, &Channel)| TopicCount {
            topic_metadata: TopicMetadata {
                name: name.clone(),
                r#type: channel.type_name,
                serialization_format: "cdr",
                offered_qos_profiles: Vec::new(),
                type_description_hash: "",
            },
            message_count: channel.count.into(),
        };
        Metadata {
            rosbag2_bagfile_information: Information {
                version: 9,
                storage_identifier: "mcap",
                duration,
                starting_time,
                message_count,
                topics_with_message_count: self.topics.iter().map(topic).collect(),
                compression_format: "",
                compression_mode: "",
                relative_file_paths: vec![&self.file],
                files: vec![FileInformation { path: &self.file, starting_time, duration, message_count }],
                custom_data: None,
                ros_distro: "jazzy",
            },
        }
    }

    fn error(&self, error: &dyn std::fmt::Display) -> WriteError {
        WriteError { path: self.folder.join(&self.file), message: error.to_string() }
    }
}

/// rosbag2's metadata.yaml, version 9.
#[derive(Serialize)]
struct Metadata<'a> {
    rosbag2_bagfile_information: Information<'a>,
}

#[derive(Serialize)]
struct Information<'a> {
    version: u32,
    storage_identifier: &'static str,
    duration: Nanoseconds,
    starting_time: SinceEpoch,
    message_count: u64,
    topics_with_message_count: Vec<TopicCount>,
    compression_format: &'static str,
    compression_mode: &'static str,
    relative_file_paths: Vec<&'a str>,
    files: Vec<FileInformation<'a>>,
    custom_data: Option<()>,
    ros_distro: &'static str,
}

#[derive(Clone, Copy, Serialize)]
struct Nanoseconds {
    nanoseconds: i64,
}

#[derive(Clone, Copy, Serialize)]
struct SinceEpoch {
    nanoseconds_since_epoch: i64,
}

#[derive(Serialize)]
struct TopicCount {
    topic_metadata: TopicMetadata,
    message_count: u64,
}

#[derive(Serialize)]
struct TopicMetadata {
    name: String,
    r#type: &'static str,
    serialization_format: &'static str,
    offered_qos_profiles: Vec<()>,
    type_description_hash: &'static str,
}

#[derive(Serialize)]
struct FileInformation<'a> {
    path: &'a str,
    starting_time: SinceEpoch,
    duration: Nanoseconds,
    message_count: u64,
}
