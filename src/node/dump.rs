//! Files with all latencies: when the service `~/dump_latency` (std_srvs/Trigger) is called, and when the node stops.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, anyhow};
use r2r::qos::QosProfile;
use r2r::std_srvs::srv::Trigger;

use super::inputs::{Drain, ready};
use crate::control::Monitor;
use crate::telemetry;

/// Writes the files where `latency_folder` says.
#[derive(Clone, Default)]
pub struct LatencyDump(Arc<Mutex<Option<Source>>>);

/// A configured node.
#[derive(Clone)]
struct Source {
    monitor: Monitor,
    folder: Option<PathBuf>,
}

impl LatencyDump {
    /// From now on the files are of this loop.
    pub fn attach(&self, monitor: &Monitor, folder: Option<&Path>) {
        let source = Source { monitor: monitor.clone(), folder: folder.map(Path::to_owned) };
        *self.lock() = Some(source);
    }

    /// There is no loop any more.
    pub fn detach(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the service.
    pub fn serve(&self, node: &mut r2r::Node) -> anyhow::Result<Drain> {
        let mut requests = node
            .create_service::<Trigger::Service>("~/dump_latency", QosProfile::services_default())
            .context("cannot offer the service ~/dump_latency")?;
        let dump = self.clone();
        Ok(Box::new(move || {
            for request in ready(&mut requests) {
                let dump = dump.clone();
                // Messages must not wait for a disk.
                let answer = move || {
                    let (success, message) = match dump.write() {
                        Ok(message) => (true, message),
                        Err(error) => (false, format!("{error:#}")),
                    };
                    tracing::info!("~/dump_latency: {message}");
                    if let Err(error) = request.respond(Trigger::Response { success, message }) {
                        tracing::warn!("~/dump_latency: cannot answer: {error}");
                    }
                };
                if let Err(error) = thread::Builder::new().name("dump".into()).spawn(answer) {
                    tracing::warn!("~/dump_latency: cannot start a thread: {error}");
                }
            }
        }))
    }

    /// Writes the files if the node has a place for them. Called when it stops.
    pub fn finish(&self) {
        let has_folder = self.lock().as_ref().is_some_and(|source| source.folder.is_some());
        if has_folder {
            match self.write() {
                Ok(message) => tracing::info!("{message}"),
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }

    /// Writes the files, and says where.
    fn write(&self) -> anyhow::Result<String> {
        let source = self.lock().clone().context("the node is not configured: there are no latencies")?;
        let folder = source.folder.as_deref().ok_or_else(|| {
            anyhow!("there is no folder for the files: start the node with the parameter latency_folder")
        })?;
        let files = telemetry::dump(source.monitor.metrics(), folder)
            .with_context(|| format!("cannot write latencies into {}", folder.display()))?;
        let written = files.first().and_then(|file| file.parent()).unwrap_or(folder);
        Ok(format!("{} files with latencies are in {}", files.len(), written.display()))
    }
}
