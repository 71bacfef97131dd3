//! Writes what was sent as an MCAP file that Foxglove and other readers of ROS 2 bags open. Called by `cli replay`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;
use mcap::{WriteOptions, Writer};

use super::definitions;
use crate::observe::messages::Stamp;

/// A file under construction. It gets its name when it is finished; until then, and after any error, whatever had the
/// name before is still there.
pub struct FileWriter {
    path: PathBuf,
    partial: PathBuf,
    /// None once finished.
    writer: Option<Writer<BufWriter<File>>>,
    /// By topic: its channel, and how many messages it has.
    channels: BTreeMap<String, (u16, u32)>,
}

impl FileWriter {
    /// Starts a file at `path`.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let partial = PathBuf::from(format!("{}.part", path.display()));
        let fail = |message: String| WriteError { path: path.into(), message };
        // The finished file takes its name, and what has it now is gone: a device would be gone for everybody.
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(fail("it is no ordinary file".to_owned()));
        }
        let file = File::create(&partial).map_err(|error| fail(error.to_string()))?;
        let options =
            WriteOptions::new().profile("ros2").library(concat!("pi0_node ", env!("CARGO_PKG_VERSION")));
        let mut begun = Self { path: path.into(), partial, writer: None, channels: BTreeMap::new() };
        let writer = options.create(BufWriter::new(file)).map_err(|error| fail(error.to_string()))?;
        begun.writer = Some(writer);
        Ok(begun)
    }

    /// A topic for messages of a type that `definitions` knows; one that gets none is in the file all the same.
    pub fn add_topic(&mut self, topic: &str, type_name: &str) -> Result<(), WriteError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let added = writer
            .add_schema(type_name, "ros2msg", definitions::of(type_name).as_bytes())
            .and_then(|schema| writer.add_channel(schema, topic, "cdr", &BTreeMap::new()));
        let channel = added.map_err(|error| self.error(&error))?;
        self.channels.insert(topic.to_owned(), (channel, 0));
        Ok(())
    }

    /// Adds an encoded message on a topic that was added.
    pub fn write(&mut self, topic: &str, data: &[u8], log_time: Stamp) -> Result<(), WriteError> {
        let Some((channel, written)) = self.channels.get_mut(topic) else {
            return Err(self.error(&format_args!("it has no topic {topic}")));
        };
        let time = u64::try_from(log_time.0).unwrap_or(0);
        let header =
            MessageHeader { channel_id: *channel, sequence: *written, log_time: time, publish_time: time };
        *written += 1;
        let written = match &mut self.writer {
            Some(writer) => writer.write_to_known_channel(&header, data),
            None => return Ok(()),
        };
        written.map_err(|error| self.error(&error))
    }

    /// Completes the file and gives it its name. Returns how many messages each topic has.
    pub fn finish(mut self) -> Result<BTreeMap<String, u32>, WriteError> {
        let finished = match self.writer.take() {
            Some(mut writer) => writer.finish().map_err(|error| error.to_string()).and_then(|_| {
                let file = writer.into_inner().into_inner().map_err(|error| error.to_string())?;
                file.sync_all().map_err(|error| error.to_string())
            }),
            None => Ok(()),
        };
        finished
            .and_then(|()| fs::rename(&self.partial, &self.path).map_err(|error| error.to_string()))
            .map_err(|error| self.error(&error))?;
        let channels = std::mem::take(&mut self.channels);
        Ok(channels.into_iter().map(|(topic, (_, written))| (topic, written)).collect())
    }

    fn error(&self, error: &dyn std::fmt::Display) -> WriteError {
        WriteError { path: self.path.clone(), message: error.to_string() }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // After `finish` there is no such file any more.
        let _ = fs::remove_file(&self.partial);
    }
}

/// A file that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write {}: {message}", .path.display())]
pub struct WriteError {
    pub(super) path: PathBuf,
    pub(super) message: String,
}
