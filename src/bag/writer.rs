//! Writes action chunks as an MCAP file that Foxglove and other readers of ROS 2 bags open. Called by `cli replay`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;
use mcap::{WriteOptions, Writer};

use super::cdr::{self, CdrError};
use super::definitions;
use super::messages::JointTrajectory;
use crate::observe::messages::Stamp;

/// A file under construction. It gets its name when it is finished; until then, and after any error, whatever had the
/// name before is still there.
pub struct ChunkWriter {
    path: PathBuf,
    partial: PathBuf,
    /// None once finished.
    writer: Option<Writer<BufWriter<File>>>,
    channel: u16,
    written: u32,
}

impl ChunkWriter {
    /// Starts a file at `path` for chunks on `topic`.
    pub fn create(path: &Path, topic: &str) -> Result<Self, WriteError> {
        let partial = PathBuf::from(format!("{}.part", path.display()));
        let fail = |message: String| WriteError { path: path.into(), message };
        let file = File::create(&partial).map_err(|error| fail(error.to_string()))?;
        let options =
            WriteOptions::new().profile("ros2").library(concat!("pi0_node ", env!("CARGO_PKG_VERSION")));
        let mut chunks = Self { path: path.into(), partial, writer: None, channel: 0, written: 0 };
        let started = (|| {
            let mut writer = options.create(BufWriter::new(file))?;
            let definition = definitions::of(JointTrajectory::TYPE);
            let schema = writer.add_schema(JointTrajectory::TYPE, "ros2msg", definition.as_bytes())?;
            chunks.channel = writer.add_channel(schema, topic, "cdr", &BTreeMap::new())?;
            Ok::<_, mcap::McapError>(writer)
        })();
        chunks.writer = Some(started.map_err(|error| fail(error.to_string()))?);
        Ok(chunks)
    }

    /// Adds one chunk.
    pub fn write(&mut self, chunk: &JointTrajectory, log_time: Stamp) -> Result<(), WriteError> {
        let data = cdr::encode(chunk).map_err(|error: CdrError| self.error(&error))?;
        let time = u64::try_from(log_time.0).unwrap_or(0);
        let header = MessageHeader {
            channel_id: self.channel,
            sequence: self.written,
            log_time: time,
            publish_time: time,
        };
        self.written += 1;
        let written = match &mut self.writer {
            Some(writer) => writer.write_to_known_channel(&header, &data),
            None => return Ok(()),
        };
        written.map_err(|error| self.error(&error))
    }

    /// Completes the file and gives it its name. Returns how many chunks it holds.
    pub fn finish(mut self) -> Result<u32, WriteError> {
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
        Ok(self.written)
    }

    fn error(&self, error: &dyn std::fmt::Display) -> WriteError {
        WriteError { path: self.path.clone(), message: error.to_string() }
    }
}

impl Drop for ChunkWriter {
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
