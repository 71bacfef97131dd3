//! The live node: what it does in each state of its lifecycle, from the main thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::clock::Clock;
use super::connect::connect;
use super::diagnostics::Diagnostics;
use super::dump::LatencyDump;
use super::health::{Level, Observer, Part};
use super::inputs;
use super::lifecycle::{self, State};
use super::lifecycle_services::{Asked, Lifecycle};
use super::names::Names;
use super::parameter_services;
use super::parameters::Parameters;
use super::rosout::{self, Lines};
use super::session::{House, Session, Switch, start};
use super::spin::{Ends, Spin};
use super::status::{Status, Style, print};
use super::stop::Stop;
use crate::device::Progress;
use crate::settings::NODE_NAME;
use crate::telemetry::{DropReason, Repeats};

/// How the node is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Without it, nothing is shown but the log.
    pub status: Option<Style>,
    /// Folder to record into; must not be there yet.
    pub record: Option<PathBuf>,
}

/// The log of this process, for `/rosout`.
pub struct Logs {
    pub lines: Lines,
    pub repeats: Repeats,
}

/// Runs the node until SIGINT or SIGTERM, then prints the final tables. Its parameters come from the process's
/// `--ros-args`.
pub fn run(options: Options, logs: Logs, progress: &dyn Progress) -> anyhow::Result<()> {
    let mut node = connect(NODE_NAME)?;
    let logging = Stop::default();
    let rosout = rosout::publish(&mut node, logs.lines, logs.repeats, &logging)?;
    let parameters = Parameters::new(&mut node)?;
    let autostart = parameters.autostart();
    match parameters.settings() {
        Err(error) if autostart => return Err(error.into()),
        Err(error) => tracing::warn!("the node cannot be configured yet: {error}"),
        Ok(_) => {}
    }
    hint_at_shared_memory();
    let loading = Arc::new(AtomicBool::new(false));
    let stop = Stop::on_signals(Arc::clone(&loading))?;

    let clock = Clock::new(parameters.use_sim_time());
    let (switch, dump) = (Switch::default(), LatencyDump::default());
    let (lifecycle, mut permanent, asked) = Lifecycle::serve(&mut node, &clock)?;
    permanent.extend(parameter_services::serve(&mut node, &parameters, &clock)?);
    permanent.push(inputs::enable(&mut node, Arc::clone(&switch))?);
    permanent.push(dump.serve(&mut node)?);
    let diagnostics = Diagnostics::new(&mut node)?;
    let name = node.fully_qualified_name()?;
    let ends = Ends { permanent, ..Ends::default() };
    let (spin, hand) = Spin::new(node, ends, clock.clone());
    // Of its own: the session's end needs it after everybody else was told to stop.
    let spinning = Stop::default();
    let spin = start("spin", &spinning, move |stop| spin.run(stop))?;

    let names = Names::new(&name, std::env::args());
    let house = House { hand, parameters, names, clock, switch, dump, record: options.record.clone() };
    let mut live = Live {
        name,
        options,
        house,
        lifecycle,
        diagnostics,
        progress,
        loading,
        session: None,
        trouble: None,
    };
    let mut result = if autostart { live.autostart() } else { Ok(()) };
    if result.is_ok() {
        result = live.serve(&asked, &stop);
    }
    let finished = live.finish();
    logging.set();
    let _ = rosout.join();
    spinning.set();
    if spin.join().is_err() {
        bail!("the spin thread failed; its message stands above");
    }
    result.and(finished)
}

struct Live<'a> {
    name: String,
    options: Options,
    house: House,
    lifecycle: Lifecycle,
    diagnostics: Diagnostics,
    progress: &'a dyn Progress,
    /// Set while nobody can stop in an orderly way.
    loading: Arc<AtomicBool>,
    session: Option<Watched>,
    /// Why the last transition failed.
    trouble: Option<String>,
}

/// A session and those who look at it.
struct Watched {
    session: Session,
    for_diagnostics: Observer,
    for_status: Option<(Status, Observer)>,
    /// Why there are no chunks, as it was told.
    stopped: Option<DropReason>,
}

impl Live<'_> {
    /// Configures and activates. An error ends the node: whoever started it is to know.
    fn autostart(&mut self) -> anyhow::Result<()> {
        for transition in [lifecycle::CONFIGURE, lifecycle::ACTIVATE] {
            if let Some(asked) = self.lifecycle.start(transition) {
                self.carry_out(asked)?;
            }
        }
        Ok(())
    }

    /// Does what others ask for, and tells how the node is, until it is time to stop.
    fn serve(&mut self, asked: &Receiver<Asked>, stop: &Stop) -> anyhow::Result<()> {
        const SLICE: Duration = Duration::from_millis(20);
        let start = Instant::now();
        let mut next_diagnostics = start + self.diagnostics_interval();
        let mut next_status = start + Status::INTERVAL;
        while !stop.is_set() && !self.has_failed() {
            match asked.recv_timeout(SLICE) {
                // The error has been said, and the node is there for another attempt.
                Ok(asked) => drop(self.carry_out(asked)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= next_diagnostics {
                self.publish_diagnostics();
                next_diagnostics = now + self.diagnostics_interval();
            }
            if now >= next_status {
                self.draw_status();
                next_status = now + Status::INTERVAL;
            }
        }
        Ok(())
    }

    /// Whether a thread of the session has ended of itself.
    fn has_failed(&self) -> bool {
        self.session.as_ref().is_some_and(|watched| watched.session.stop.is_set())
    }

    /// The work of a transition that has begun.
    fn carry_out(&mut self, asked: Asked) -> anyhow::Result<()> {
        let transition = asked.transition;
        let result = match transition.goal {
            State::Configuring => self.configure(),
            State::Activating => {
                self.activate();
                Ok(())
            }
            State::Deactivating => {
                self.deactivate();
                Ok(())
            }
            State::CleaningUp => self.clean_up(),
            State::ShuttingDown => {
                self.deactivate();
                self.clean_up()
            }
            _ => Ok(()),
        };
        self.trouble = result.as_ref().err().map(|error| format!("{}: {error:#}", transition.label));
        if result.is_err() {
            // The state after an error is that of a node that was never configured.
            let _ = self.clean_up();
        }
        self.lifecycle.end(result.is_ok());
        match &result {
            Ok(()) => tracing::info!("{} is {}", self.name, self.lifecycle.state().label()),
            Err(error) => tracing::error!("{} failed: {error:#}", transition.label),
        }
        self.publish_diagnostics();
        asked.answer(result.is_ok());
        result
    }

    fn configure(&mut self) -> anyhow::Result<()> {
        self.loading.store(true, Relaxed);
        let session = Session::configure(&self.house, self.progress);
        self.loading.store(false, Relaxed);
        let session = session?;
        let observer = || Observer::new(&session.monitor, &session.settings, &session.publishers);
        let status = |style| Status::new(style, session.monitor.device(), &session.settings.get().joints);
        self.session = Some(Watched {
            for_diagnostics: observer(),
            stopped: None,
            for_status: self.options.status.map(|style| (status(style), observer())),
            session,
        });
        Ok(())
    }

    fn activate(&mut self) {
        let Some(Watched { session, .. }) = &self.session else { return };
        session.activate();
        let name = &self.name;
        tracing::info!("{name} is running on {}", session.monitor.device());
        if session.settings.get().require_enable {
            tracing::info!("nothing is sent until {name}/enable is called with true");
        }
    }

    fn deactivate(&mut self) {
        if let Some(Watched { session, .. }) = &self.session {
            session.deactivate();
        }
    }

    fn clean_up(&mut self) -> anyhow::Result<()> {
        let Some(Watched { session, for_status, .. }) = self.session.take() else { return Ok(()) };
        if let Some((status, _)) = for_status {
            status.finish();
        }
        session.finish(&self.house)
    }

    /// The session's end with the node's, and its tables.
    fn finish(&mut self) -> anyhow::Result<()> {
        let Some(monitor) = self.session.as_ref().map(|watched| watched.session.monitor.clone()) else {
            return Ok(());
        };
        self.clean_up()?;
        let snapshot = monitor.snapshot();
        print(&snapshot.to_string());
        if let Some(outcome) = &snapshot.task_outcome {
            print(&format!("\ntask: {outcome}\n"));
        }
        if let Some(error) = &snapshot.last_error {
            print(&format!("\nlast error: {error}\n"));
        }
        Ok(())
    }

    fn diagnostics_interval(&self) -> Duration {
        let hz = self.session.as_ref().map_or(1.0, |watched| watched.session.settings.get().diagnostics_hz);
        Duration::from_secs_f64(1.0 / hz)
    }

    fn publish_diagnostics(&mut self) {
        let mut parts = vec![lifecycle_part(self.lifecycle.state(), self.trouble.as_deref())];
        let mut hardware = "";
        if let Some(watched) = &mut self.session {
            let health = watched.for_diagnostics.look();
            match &health.stopped {
                Some((reason, remedy)) if watched.stopped != Some(*reason) => {
                    tracing::warn!("no chunks: {}. {remedy}", reason.name());
                    watched.stopped = Some(*reason);
                }
                None if watched.stopped.is_some() && health.rates.chunks_hz > 0.0 => {
                    tracing::info!("there are chunks again");
                    watched.stopped = None;
                }
                _ => {}
            }
            parts.extend(health.parts);
            hardware = watched.session.monitor.device();
        }
        self.diagnostics.publish(&parts, hardware, self.house.clock.now());
    }

    fn draw_status(&mut self) {
        if let Some(Watched { session, for_status: Some((status, observer)), .. }) = &mut self.session {
            status.draw(&observer.look(), session.last_chunk.get().as_ref());
        }
    }
}

/// Where the node is in its lifecycle, and why not further.
fn lifecycle_part(state: State, trouble: Option<&str>) -> Part {
    let (level, message) = match trouble {
        Some(trouble) => (Level::Error, format!("{}; {trouble}", state.label())),
        None => (Level::Ok, state.label().to_owned()),
    };
    Part { name: "lifecycle".to_owned(), level, message, values: Vec::new() }
}

/// FastDDS's own defaults lose most camera images between processes.
fn hint_at_shared_memory() {
    let fastdds = std::env::var("RMW_IMPLEMENTATION").map_or(true, |name| name.contains("fastrtps"));
    if fastdds && std::env::var_os("FASTRTPS_DEFAULT_PROFILES_FILE").is_none() {
        tracing::warn!(
            "FASTRTPS_DEFAULT_PROFILES_FILE is not set: most raw images will get lost between processes. Set it to \
             config/fastdds_shared_memory.xml for this node and the camera drivers, or use the launch file"
        );
    }
}
