//! Records a control loop: what came in, what it made of it, what was sent. Called by `node` for `pi0_node record`, and by
//! tests with a loop of their own.
//!
//! The threads that are told of a message encode it and leave it in a bounded queue; one thread of the recorder's own
//! compresses and writes. When the queue is full, messages are dropped and counted: recording never holds the loop up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use serde::Serialize;

use super::cdr::{self, CdrError};
use super::commands::{StreamMessage, recorded_topic, trajectory};
use super::folder::FolderWriter;
use super::messages::{
    CompressedImage, Cycle, Flag, Guide, Header, Image, JointState, JointTrajectory, StreamTick, Text, Time,
};
use super::parameters::ParameterEvent;
use super::writer::WriteError;
use crate::control::{Arrival, CameraInput, Chunk, Departure, Tick, Wiring, Witness};
use crate::observe::messages::{self as observe, Stamp};
use crate::settings::{Output, OutputKind, Value};

/// The node as a recording knows it, whatever its name and namespace were.
pub const NODE: &str = "/pi0_node";
/// Where a recording has the prompts, the changes of parameters, who was enabled when, the chunks, what each cycle used, and
/// what each tick of the streams followed, what led each chunk. What each output sent is on the output's own topic.
pub const PROMPT_TOPIC: &str = "/pi0_node/prompt";
pub const PARAMETER_TOPIC: &str = "/parameter_events";
pub const ENABLE_TOPIC: &str = "/pi0_node/enable";
pub const CHUNK_TOPIC: &str = "/pi0_node/action_chunk";
pub const CYCLE_TOPIC: &str = "/pi0_node/cycle";
pub const STREAM_TOPIC: &str = "/pi0_node/stream";
pub const GUIDE_TOPIC: &str = "/pi0_node/guide";

/// Messages, and bytes of them, that may wait for the writing thread.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_BYTES: usize = 256 << 20;

/// A recording that goes on until [`Self::finish`].
pub struct Recording {
    recorder: Arc<Recorder>,
    thread: JoinHandle<Result<BTreeMap<String, u64>, WriteError>>,
}

/// What a recording holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Messages written, by topic.
    pub written: BTreeMap<String, u64>,
    /// Messages that found the queue full, by topic.
    pub dropped: BTreeMap<String, u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36}{:>10}{:>10}", "recorded", "messages", "dropped")?;
        let names =
            self.written.keys().chain(self.dropped.keys().filter(|name| !self.written.contains_key(*name)));
        for name in names {
            let count = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
            writeln!(f, "{name:<36}{:>10}{:>10}", count(&self.written), count(&self.dropped))?;
        }
        Ok(())
    }
}

impl Recording {
    /// Starts to record a loop into a new folder.
    pub fn start(wiring: &mut Wiring, folder: &Path) -> Result<Self, WriteError> {
        let writer = FolderWriter::create(folder)?;
        let (queue, waiting) = sync_channel(MAX_WAITING);
        let fail = |message: String| WriteError { path: folder.into(), message };
        let recorder = Recorder::new(queue, wiring.joints.names().to_vec(), &wiring.outputs);
        let recorder = Arc::new(recorder.map_err(|error| fail(error.to_string()))?);
        let counts = recorder.clone();
        let thread = thread::Builder::new()
            .name("recorder".into())
            .spawn(move || write(writer, &waiting, &counts))
            .map_err(|error| fail(error.to_string()))?;
        let witness: Arc<dyn Witness> = recorder.clone();
        wiring.tell(&witness);
        Ok(Self { recorder, thread })
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.recorder.dropped_in_all.load(Relaxed)
    }

    /// Writes what waits, completes the bag, and says what it holds.
    pub fn finish(self) -> Result<Summary, WriteError> {
        self.recorder.over.store(true, Relaxed);
        // The thread may have ended with an error already; then joining it says so.
        let _ = self.recorder.queue.send(Item::End);
        let written = match self.thread.join() {
            Ok(written) => written?,
            Err(_) => {
                let message = "the recorder's thread failed; its message stands above".into();
                return Err(WriteError { path: "the recording".into(), message });
            }
        };
        let dropped = self.recorder.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Summary { written, dropped })
    }
}

enum Item {
    Message { topic: String, type_name: &'static str, log_time: Stamp, data: Vec<u8> },
    End,
}

fn write(
    mut writer: FolderWriter,
    waiting: &Receiver<Item>,
    counts: &Recorder,
) -> Result<BTreeMap<String, u64>, WriteError> {
    while let Ok(Item::Message { topic, type_name, log_time, data }) = waiting.recv() {
        counts.waiting_bytes.fetch_sub(data.len(), Relaxed);
        writer.write(&topic, type_name, log_time, &data).inspect_err(|error| tracing::error!("{error}"))?;
    }
    writer.finish()
}

/// What the loop's ends know of the recording.
struct Recorder {
    queue: SyncSender<Item>,
    waiting_bytes: AtomicUsize,
    /// The newest time of the loop's clock that was seen: what people say comes without any.
    newest: AtomicI64,
    joints: Vec<String>,
    /// Those that get trajectories.
    trajectories: Vec<Output>,
    /// Of the thread that ticks, and nobody else's.
    streams: Mutex<Vec<StreamMessage>>,
    dropped_in_all: AtomicU64,
    dropped: Mutex<BTreeMap<String, u64>>,
    /// Set when the recording ends: what comes later, while the node stops, is not missing in it.
    over: AtomicBool,
}

impl Recorder {
    fn new(queue: SyncSender<Item>, joints: Vec<String>, outputs: &[Output]) -> Result<Self, CdrError> {
        Ok(Self {
            queue,
            trajectories: outputs.iter().filter(|output| !output.is_stream()).cloned().collect(),
            streams: Mutex::new(StreamMessage::all(outputs, &joints)?),
            waiting_bytes: AtomicUsize::new(0),
            newest: AtomicI64::new(0),
            joints,
            dropped_in_all: AtomicU64::new(0),
            dropped: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    fn put(&self, topic: &str, type_name: &'static str, log_time: Stamp, message: &impl Serialize) {
        match cdr::encode(message) {
            Ok(data) => self.put_encoded(topic, type_name, log_time, data),
            Err(_) => self.drop_one(topic),
        }
    }

    fn put_encoded(&self, topic: &str, type_name: &'static str, log_time: Stamp, data: Vec<u8>) {
        if self.over.load(Relaxed) {
            return;
        }
        self.newest.fetch_max(log_time.0, Relaxed);
        let bytes = data.len();
        let before = self.waiting_bytes.fetch_add(bytes, Relaxed);
        let item = Item::Message { topic: topic.to_owned(), type_name, log_time, data };
        if before + bytes > MAX_WAITING_BYTES || self.queue.try_send(item).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.drop_one(topic);
        }
    }

    /// As far as the recorder knows.
    fn now(&self) -> Stamp {
        Stamp(self.newest.load(Relaxed))
    }

    /// Only for what is lost anyway: it may wait for another thread that counts.
    #[cold]
    fn drop_one(&self, topic: &str) {
        if self.dropped_in_all.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(
                "recording: the disk is too slow, messages are dropped; the table at the end says how many"
            );
        }
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        *dropped.entry(topic.to_owned()).or_default() += 1;
    }
}

fn header(stamp: Stamp) -> Header {
    Header { stamp: stamp.into(), frame_id: String::new() }
}

impl Witness for Recorder {
    fn image(&self, camera: &CameraInput, image: &observe::Image, received: Stamp) {
        let message = Image {
            header: header(image.stamp),
            height: image.height,
            width: image.width,
            encoding: image.encoding.to_owned(),
            is_bigendian: image.is_bigendian.into(),
            step: image.step,
            data: image.data.to_vec(),
        };
        self.put(camera.topic(), Image::TYPE, received, &message);
    }

    fn compressed_image(&self, camera: &CameraInput, image: &observe::CompressedImage, received: Stamp) {
        let message = CompressedImage {
            header: header(image.stamp),
            format: image.format.to_owned(),
            data: image.data.to_vec(),
        };
        self.put(camera.topic(), CompressedImage::TYPE, received, &message);
    }

    fn joints(&self, topic: &str, state: &observe::JointState, received: Stamp) {
        let message = JointState {
            header: header(state.stamp),
            name: state.names.to_vec(),
            position: state.positions.to_vec(),
            ..JointState::default()
        };
        self.put(topic, JointState::TYPE, received, &message);
    }

    fn prompt(&self, prompt: &str) {
        self.put(PROMPT_TOPIC, Text::TYPE, self.now(), &Text { data: prompt.to_owned() });
    }

    fn changed(&self, changes: &[(&str, Value)]) {
        let now = self.now();
        let changes = changes.iter().map(|(name, value)| (*name, value));
        let event = ParameterEvent::changed(now.into(), NODE, changes);
        self.put(PARAMETER_TOPIC, ParameterEvent::TYPE, now, &event);
    }

    fn enabled(&self, enabled: bool) {
        self.put(ENABLE_TOPIC, Flag::TYPE, self.now(), &Flag { data: enabled });
    }

    fn departure(&self, departure: &Departure) {
        if departure.made.hold.is_none() && departure.made.used.guide.leads() {
            self.put(GUIDE_TOPIC, Guide::TYPE, departure.at, &guide(departure.made));
        }
        self.put(CYCLE_TOPIC, Cycle::TYPE, departure.at, &cycle(departure));
        if departure.sent {
            let Chunk { observation, control_hz, .. } = departure.leaving;
            let points = departure.leaving.points();
            let message = JointTrajectory::new(*observation, &self.joints, points, *control_hz);
            self.put(CHUNK_TOPIC, JointTrajectory::TYPE, departure.at, &message);
            for output in &self.trajectories {
                let OutputKind::Trajectory(stamp) = output.kind else { continue };
                let Departure { leaving, motion, .. } = departure;
                let message = trajectory(&output.joints, stamp, &self.joints, leaving, motion);
                self.put(&recorded_topic(&output.topic), JointTrajectory::TYPE, departure.at, &message);
            }
        }
    }

    fn tick(&self, tick: &Tick) {
        let message = StreamTick {
            header: header(tick.at),
            sequence: tick.sequence,
            state: tick.state.name().to_owned(),
        };
        self.put(STREAM_TOPIC, StreamTick::TYPE, tick.at, &message);
        for message in &mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner) {
            let (topic, type_name) = (recorded_topic(message.topic()), message.type_name());
            let data = message.of(tick).to_vec();
            self.put_encoded(&topic, type_name, tick.at, data);
        }
    }
}

fn guide(made: &Chunk) -> Guide {
    let guide = &made.used.guide;
    let count = |points: usize| u32::try_from(points).unwrap_or(u32::MAX);
    Guide {
        header: header(made.observation),
        sequence: made.sequence,
        delay: count(guide.delay),
        until: count(guide.until),
        schedule: guide.schedule.name().to_owned(),
        positions: guide.points(made.joints).to_vec(),
    }
}

fn cycle(departure: &Departure) -> Cycle {
    let made = departure.made;
    let frames = || made.used.frames.iter().map(|frame| frame.unwrap_or_default());
    let time = |stamp: Stamp| Time::from(stamp);
    let (stages, latencies_ms) = departure
        .latencies()
        .map(|(stage, took)| (stage.name().to_owned(), took.as_secs_f64() * 1e3))
        .unzip();
    let Arrival { stamp: joint_stamp, received: joint_received } = made.used.joints;
    Cycle {
        header: header(made.observation),
        sequence: made.sequence,
        looked: time(made.used.looked),
        acted: time(made.used.acted),
        left: time(departure.at),
        image_stamps: frames().map(|frame| time(frame.stamp)).collect(),
        image_received: frames().map(|frame| time(frame.received)).collect(),
        joint_stamp: time(joint_stamp),
        joint_received: time(joint_received),
        joint_positions: made.measured.clone(),
        prompt: made.used.prompt,
        parameters: departure.parameters,
        denoising_steps: u32::try_from(made.denoising_steps).unwrap_or(u32::MAX),
        sent: departure.sent,
        hold: made.hold.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        refused: departure.refused.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        stages,
        latencies_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_place_is_counted_and_what_comes_after_the_end_is_not() {
        let (queue, waiting) = sync_channel(1);
        let recorder = Arc::new(Recorder::new(queue, Vec::new(), &[]).unwrap());
        recorder.prompt("one");
        recorder.prompt("two");
        assert_eq!(recorder.dropped_in_all.load(Relaxed), 1);

        let thread = thread::spawn(move || {
            drop(waiting);
            Ok(BTreeMap::new())
        });
        let summary = Recording { recorder: recorder.clone(), thread }.finish().unwrap();
        recorder.prompt("three");
        assert_eq!(summary.dropped, BTreeMap::from([(PROMPT_TOPIC.to_owned(), 1)]));
        assert_eq!(recorder.dropped_in_all.load(Relaxed), 1);
    }
}
