//! A configured node: the control loop with its threads and topics, from `configure` to `cleanup`. Made, activated and
//! ended by `live`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::clock::Clock;
use super::dump::LatencyDump;
use super::graph::{GraphWatch, Publishers};
use super::inputs;
use super::names::Names;
use super::parameters::{Parameters, Running};
use super::publish::{ChunkPublisher, LastChunk};
use super::spin::Hand;
use super::status::print;
use super::stop::{Stop, StopOnDrop};
use super::stream::StreamPublisher;
use crate::bag::Recording;
use crate::control::{self, Enable, Monitor, Wiring};
use crate::dashboard::{self, Dashboard, Sources};
use crate::device::Progress;
use crate::files;
use crate::settings::{CurrentSettings, PARAMETERS_FILE, Settings, write_parameters};

/// The present session's switch, for `~/enable`; none while the node is unconfigured.
pub type Switch = Arc<Mutex<Option<Enable>>>;

/// What a session needs of the node that it belongs to, whose services outlive it.
pub struct House {
    pub hand: Hand,
    pub parameters: Parameters,
    pub names: Names,
    pub clock: Clock,
    pub switch: Switch,
    pub dump: LatencyDump,
    /// Folder to record into; a number is put behind it for every session after the first.
    pub record: Option<PathBuf>,
}

pub struct Session {
    pub monitor: Monitor,
    pub settings: CurrentSettings,
    pub publishers: Publishers,
    pub last_chunk: LastChunk,
    enable: Enable,
    /// Ends this session's threads. When one of them ends, for whatever reason, all end.
    pub stop: Stop,
    threads: Vec<JoinHandle<()>>,
    publish: JoinHandle<ChunkPublisher>,
    stream: Option<JoinHandle<StreamPublisher>>,
    recording: Option<Recording>,
    _dashboard: Option<Dashboard>,
}

impl Session {
    /// Loads and compiles the model and makes the topics. The loop is inactive.
    pub fn configure(house: &House, progress: &dyn Progress) -> anyhow::Result<Self> {
        let settings = house.parameters.begin_configuring()?;
        let stop = Stop::default();
        let session = Self::make(house, settings, &stop, progress);
        if session.is_err() {
            stop.set();
            let _ = clear(house);
        }
        session
    }

    fn make(house: &House, settings: Settings, stop: &Stop, progress: &dyn Progress) -> anyhow::Result<Self> {
        let missing = settings.joints_without_output();
        if !missing.is_empty() {
            tracing::warn!("no output takes {}: they do not move", missing.join(", "));
        }
        if let Some(folder) = &settings.latency_folder {
            files::try_folder(folder).context("latency_folder")?;
        }
        let mut wiring = control::assemble(&settings, progress)?;
        let recording =
            house.record.as_deref().map(|folder| record(house, &mut wiring, folder)).transpose()?;
        let Wiring { cameras, joints, prompt, mut cycle, chunks, stream, outputs, enable, tuner, monitor } =
            wiring;
        enable.set_active(false);
        // Before anybody sees ~/prompt: what is sent there must not be refused.
        let current = CurrentSettings::new(settings.clone());
        house.parameters.attach(Running { tuner, prompt, current: current.clone() });
        let publishers = Publishers::default();
        let graph = GraphWatch::new(&settings, &house.names, publishers.clone());
        for remark in monitor.remarks() {
            tracing::warn!("{remark}");
        }
        let known_publishers = publishers.clone();
        let (clock, ending, real_time) = (house.clock.clone(), stop.clone(), settings.real_time);
        let (parameters, judged) = (house.parameters.clone(), monitor.clone());
        let (chunk_publisher, stream_publisher, mut threads) = house.hand.with(move |node, ends| {
            let chunk_publisher = ChunkPublisher::new(node, joints.names(), &outputs)?;
            let stream_publisher = StreamPublisher::new(node, joints.names(), &outputs)?;
            let mut threads = Vec::new();
            for camera in cameras {
                let (drain, thread) = inputs::camera(node, camera, real_time, &clock, &ending)?;
                ends.session.push(drain);
                threads.push(thread);
            }
            ends.session.push(inputs::joints(node, joints, &clock, known_publishers)?);
            ends.session.push(inputs::prompt(node, parameters)?);
            ends.session.push(inputs::task_outcome(node, judged)?);
            ends.graph = Some(graph);
            anyhow::Ok((chunk_publisher, stream_publisher, threads))
        })??;

        let clock = house.clock.clone();
        threads.push(start("control", stop, move |stop| {
            for refused in control::make_real_time(real_time) {
                tracing::warn!("{refused}");
            }
            cycle.run(|| clock.now(), stop.flag());
        })?);
        let (last_chunk, clock) = (chunk_publisher.last.clone(), house.clock.clone());
        let publish = start("publish", stop, move |stop| {
            control::make_as_urgent(real_time);
            chunk_publisher.run(chunks, &clock, stop);
            chunk_publisher
        })?;

        let clock = house.clock.clone();
        let stream = stream.map(|stream| {
            start("stream", stop, move |stop| {
                control::make_most_urgent(real_time);
                let mut publisher = stream_publisher;
                publisher.run(stream, &clock, stop);
                publisher
            })
        });

        house.dump.attach(&monitor, settings.latency_folder.as_deref());
        *house.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(enable.clone());
        let shown = last_chunk.clone();
        let chunk = Box::new(move || shown.get());
        let sources = Sources { monitor: monitor.clone(), settings: current.clone(), chunk };
        Ok(Self {
            monitor,
            settings: current,
            publishers,
            last_chunk,
            enable,
            stop: stop.clone(),
            threads,
            publish,
            stream: stream.transpose()?,
            recording,
            _dashboard: dashboard::start(sources),
        })
    }

    pub fn activate(&self) {
        self.enable.set_active(true);
    }

    /// Puts the loop to rest. A robot that moves on its account is told to hold first.
    pub fn deactivate(&self) {
        // A cycle under way is waited for: on a slow device it may take seconds.
        const PATIENCE: Duration = Duration::from_secs(30);
        const STEP: Duration = Duration::from_millis(5);
        /// For what the cycle has handed out to leave.
        const LEAVE: Duration = Duration::from_millis(50);
        self.enable.set_active(false);
        let end = Instant::now() + PATIENCE;
        while !self.enable.has_followed() && !self.stop.is_set() && Instant::now() < end {
            thread::sleep(STEP);
        }
        thread::sleep(LEAVE);
    }

    /// Ends the threads and topics and gives the model's memory back.
    pub fn finish(self, house: &House) -> anyhow::Result<()> {
        self.stop.set();
        house.dump.finish();
        let mut failed = None;
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("unnamed").to_owned();
            if thread.join().is_err() {
                failed = Some(name);
            }
        }
        let publisher = self.publish.join();
        let stream = self.stream.map(JoinHandle::join).transpose();
        if let Some(recording) = self.recording {
            print(&format!("{}\n", recording.finish()?));
        }
        let cleared = clear(house);
        let failed_with = |name: &str| anyhow!("the {name} thread failed; its message stands above");
        if let Some(name) = failed {
            return Err(failed_with(&name));
        }
        let publisher = publisher.map_err(|_| failed_with("publish"))?;
        let stream = stream.map_err(|_| failed_with("stream"))?;
        cleared?;
        house.hand.with(move |node, _| {
            publisher.destroy(node);
            stream.into_iter().for_each(|stream| stream.destroy(node));
        })
    }
}

/// Starts to record what a loop sees and does, with the parameters that it was made of.
fn record(house: &House, wiring: &mut Wiring, folder: &Path) -> anyhow::Result<Recording> {
    let folder = &free(folder);
    let recording = Recording::start(wiring, folder)?;
    let given = house.parameters.given();
    let values = given.iter().map(|(name, value)| (name.as_str(), value));
    write_parameters(&folder.join(PARAMETERS_FILE), values)?;
    tracing::info!("recording to {}", folder.display());
    Ok(recording)
}

/// The folder, or with a number behind it where an earlier session of this process has recorded into it.
fn free(folder: &Path) -> PathBuf {
    let numbered = (2..).map(|number: u32| PathBuf::from(format!("{}_{number}", folder.display())));
    let mut names = std::iter::once(folder.to_owned()).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or_default()
}

/// Takes the session's ends from those who outlive it.
fn clear(house: &House) -> anyhow::Result<()> {
    house.parameters.detach();
    house.dump.detach();
    *house.switch.lock().unwrap_or_else(PoisonError::into_inner) = None;
    house.hand.with(|_, ends| {
        ends.session.clear();
        ends.graph = None;
    })
}

/// A thread. When it ends, for whatever reason, all that share `stop` end.
pub fn start<T: Send + 'static>(
    name: &str,
    stop: &Stop,
    run: impl FnOnce(&Stop) -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    let ending = StopOnDrop(stop.clone());
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || run(&ending.0)).with_context(|| format!("cannot start the {name} thread"))
}
