//! The live node: starts its threads, watches them from the main thread, stops them.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::clock::Clock;
use super::connect::connect;
use super::diagnostics::Diagnostics;
use super::dump::LatencyDump;
use super::graph::{GraphWatch, Publishers};
use super::health::Observer;
use super::inputs::{self, Drain};
use super::parameters::{self, Parameters};
use super::publish::{ChunkPublisher, LastChunk};
use super::status::{Status, Style, print};
use super::stop::{Stop, StopOnDrop};
use crate::bag::Recording;
use crate::control::{self, Monitor};
use crate::dashboard::{self, Sources};
use crate::device::Progress;
use crate::settings::{NODE_NAME, PARAMETERS_FILE, RealTimeSettings, Settings, write_parameters};

/// How the node is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Without it, nothing is shown but the log.
    pub status: Option<Style>,
    /// Folder to record into; must not be there yet.
    pub record: Option<PathBuf>,
}

/// Runs the node until SIGINT or SIGTERM, then prints the final tables. Its parameters come from the process's
/// `--ros-args`.
pub fn run(options: Options, progress: &dyn Progress) -> anyhow::Result<()> {
    let mut node = connect(NODE_NAME)?;
    let Parameters { settings, given, use_sim_time, services } = parameters::declare(&mut node)?;
    hint_at_shared_memory();
    let mut wiring = control::assemble(&settings, progress)?;
    let recording = match &options.record {
        Some(folder) => {
            let recording = Recording::start(&mut wiring, folder)?;
            let values = given.iter().map(|(name, value)| (name.as_str(), value));
            write_parameters(&folder.join(PARAMETERS_FILE), values)?;
            tracing::info!("recording to {}", folder.display());
            Some(recording)
        }
        None => None,
    };
    // Until here a signal ends the process at once; nothing has been promised to anybody yet.
    let stop = Stop::on_signals()?;

    let clock = Clock::new(use_sim_time);
    let publishers = Publishers::default();
    let watch = Watch {
        monitor: wiring.monitor.clone(),
        diagnostics: Diagnostics::new(&mut node, wiring.monitor.device())?,
        clock: clock.clone(),
        publishers: publishers.clone(),
    };
    let chunk_publisher = ChunkPublisher::new(&mut node, wiring.joints.names())?;
    let last_chunk = chunk_publisher.last.clone();
    let mut drains = Vec::new();
    let mut threads = Vec::new();
    for camera in wiring.cameras {
        let (drain, thread) = inputs::camera(&mut node, camera, &clock, &stop)?;
        drains.push(drain);
        threads.push(thread);
    }
    drains.push(inputs::joints(&mut node, wiring.joints, &clock)?);
    drains.push(inputs::prompt(&mut node, wiring.prompt)?);
    drains.push(inputs::enable(&mut node, wiring.enable)?);
    let dump = LatencyDump::new(&watch.monitor, settings.latency_folder.as_deref());
    drains.push(dump.serve(&mut node)?);
    let name = node.fully_qualified_name()?;
    let spin =
        Spin { graph: GraphWatch::new(&settings, publishers), node, services, drains, clock: clock.clone() };

    threads.push(start("spin", &stop, move |stop| spin.run(stop))?);
    let mut cycle = wiring.cycle;
    let (real_time, control_clock) = (settings.real_time, clock.clone());
    threads.push(start("control", &stop, move |stop| {
        for refused in control::make_real_time(real_time) {
            tracing::warn!("{refused}");
        }
        cycle.run(|| control_clock.now(), stop.flag());
    })?);
    let chunks = wiring.chunks;
    threads.push(start("publish", &stop, move |stop| {
        // As urgent as what it waits for, on any core; what is refused has been said by the control thread.
        let _ = control::make_real_time(RealTimeSettings { core: None, ..real_time });
        chunk_publisher.run(chunks, &clock, stop);
    })?);

    let shown = last_chunk.clone();
    let sources = Sources {
        monitor: watch.monitor.clone(),
        settings: settings.clone(),
        chunk: Box::new(move || shown.get()),
    };
    // It ends with this function.
    let _dashboard = dashboard::start(sources);
    tracing::info!("{name} is running on {}", watch.monitor.device());
    if settings.require_enable {
        tracing::info!("nothing is sent until {name}/enable is called with true");
    }
    watch.run(&options, &settings, &last_chunk, &stop);
    for thread in threads {
        let name = thread.thread().name().unwrap_or("unnamed").to_owned();
        if thread.join().is_err() {
            bail!("the {name} thread failed; its message stands above");
        }
    }
    dump.finish();
    if let Some(recording) = recording {
        print(&format!("{}\n", recording.finish()?));
    }
    let snapshot = watch.monitor.snapshot();
    print(&snapshot.to_string());
    if let Some(error) = &snapshot.last_error {
        print(&format!("\nlast error: {error}\n"));
    }
    Ok(())
}

/// A thread of the node. When it ends, for whatever reason, all end.
fn start(
    name: &str,
    stop: &Stop,
    run: impl FnOnce(&Stop) + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let ending = StopOnDrop(stop.clone());
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || run(&ending.0)).with_context(|| format!("cannot start the {name} thread"))
}

/// What the spin thread has.
struct Spin {
    node: r2r::Node,
    services: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    drains: Vec<Drain>,
    graph: GraphWatch,
    clock: Clock,
}

impl Spin {
    fn run(mut self, stop: &Stop) {
        const PATIENCE: Duration = Duration::from_millis(20);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while !stop.is_set() {
            self.node.spin_once(PATIENCE);
            self.clock.update(&self.node);
            self.drains.iter_mut().for_each(|drain| drain());
            // A spin that received a request has filled the stream that this future reads; nobody needs to wake it.
            let _ = self.services.as_mut().poll(&mut context);
            self.graph.look(&self.node);
        }
    }
}

/// What the main thread does while the others work.
struct Watch {
    monitor: Monitor,
    diagnostics: Diagnostics,
    clock: Clock,
    publishers: Publishers,
}

impl Watch {
    /// Publishes `/diagnostics` and draws the status until it is time to stop.
    fn run(&self, options: &Options, settings: &Settings, last_chunk: &LastChunk, stop: &Stop) {
        let observer = || Observer::new(&self.monitor, settings, &self.publishers);
        let (mut for_diagnostics, mut for_status) = (observer(), observer());
        let status = options.status.map(|style| Status::new(style, self.monitor.device(), &settings.joints));
        let diagnostics_interval = Duration::from_secs_f64(1.0 / settings.diagnostics_hz);
        let start = Instant::now();
        let mut next_diagnostics = start + diagnostics_interval;
        let mut next_status = status.as_ref().map(|_| start + Status::INTERVAL);
        while stop.sleep_until(next_status.map_or(next_diagnostics, |next| next.min(next_diagnostics))) {
            let now = Instant::now();
            if now >= next_diagnostics {
                self.diagnostics.publish(&for_diagnostics.look(), self.clock.now());
                next_diagnostics = now + diagnostics_interval;
            }
            if let (Some(status), Some(next)) = (&status, &mut next_status)
                && now >= *next
            {
                status.draw(&for_status.look(), last_chunk.get().as_ref());
                *next = now + Status::INTERVAL;
            }
        }
        if let Some(status) = &status {
            status.finish();
        }
    }
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
