//! The HTTP edge: a page that shows how the node is doing, its data as JSON, and `/metrics` for Prometheus. Started by
//! `node` and by `cli replay`; read-only.
//!
//! One thread with a runtime of its own, at a lower priority than the rest of the node, reads telemetry and answers.
//! Nothing here can hold up who records: connections, their time and the size of answers are bounded (`server`), and
//! answers that cost more than a few counters are made once for all who ask (`watch`).

mod assets;
mod cycles;
mod latency;
mod metrics;
mod routes;
mod server;
mod state;
mod status;
mod watch;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::control::{Chunk, Monitor};
use crate::settings::CurrentSettings;

/// What the dashboard shows.
pub struct Sources {
    pub monitor: Monitor,
    pub settings: CurrentSettings,
    /// The last chunk that was sent.
    pub chunk: Box<dyn Fn() -> Option<Chunk> + Send + Sync>,
}

/// A running dashboard; it ends when this is dropped.
pub struct Dashboard {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Starts to answer at `address`; port 0 means any free one.
    pub fn start(address: SocketAddr, sources: Sources) -> Result<Self, DashboardError> {
        let error = |error| DashboardError { address, error };
        let listener = TcpListener::bind(address).map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(error)?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            server::step_back();
            let watch = Arc::new(watch::Watch::new(sources));
            if let Err(error) = runtime.block_on(server::serve(listener, &watch, stopped)) {
                tracing::error!("the dashboard has ended: {error}");
            }
        };
        let thread = thread::Builder::new().name("dashboard".into()).spawn(run).map_err(error)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // Connections end with the runtime, whoever they wait for.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the dashboard of `settings`, if it has one. A dashboard that cannot be had is no reason not to move a robot:
/// a warning says why.
pub fn start(sources: Sources) -> Option<Dashboard> {
    let address = sources.settings.get().dashboard?;
    match Dashboard::start(address, sources) {
        Ok(dashboard) => {
            tracing::info!("the dashboard is at http://{}", dashboard.address());
            Some(dashboard)
        }
        Err(error) => {
            tracing::warn!("{error}; going on without it");
            None
        }
    }
}

/// A dashboard that could not be started.
#[derive(Debug, thiserror::Error)]
pub struct DashboardError {
    pub address: SocketAddr,
    #[source]
    pub error: io::Error,
}

impl std::fmt::Display for DashboardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, error } = self;
        write!(f, "there is no dashboard at {address}: ")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "another program (or another node) has this port; choose one with the parameter 'dashboard'"
                )
            }
            _ => write!(f, "{error}"),
        }
    }
}
