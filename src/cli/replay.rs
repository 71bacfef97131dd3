//! `pi0_node replay`: a rosbag through the same control loop as the live node.
//!
//! Every message of the bag is put in as the node would, at its log time, and the cycle takes a step after it. So the
//! chunks depend on the bag, the checkpoint and the settings alone, never on how fast this machine is. A recording of
//! `pi0_node record` says what each cycle used; `follow` makes the cycle use the same.

mod follow;
mod outgoing;
mod topics;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::follow::Followed;
use self::outgoing::Outgoing;
use self::topics::{Target, Topics};
use super::progress::Bar;
use super::rate::rate;
use crate::bag::parameters::ParameterEvent;
use crate::bag::{Bag, Message, NODE};
use crate::control::{self, Chunk, Monitor, Wiring};
use crate::dashboard::{Dashboard, Sources};
use crate::files;
use crate::observe::messages::Stamp;
use crate::settings::{NODE_NAME, PARAMETERS_FILE, Settings, Value, read_parameters};
use crate::telemetry;

/// Feed a rosbag through the node's control loop and write the action chunks and what each output is sent.
///
/// The same bag, checkpoint, configuration and seed give the same chunks, byte for byte, at any rate.
#[derive(clap::Args)]
pub struct Options {
    /// Folder with metadata.yaml, or a bare .mcap or .db3 file.
    #[arg(value_name = "BAG")]
    bag: PathBuf,
    /// ROS parameter file, as the node takes it; without one, the parameters.yaml that `record` left in the bag.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Checkpoint folder; wins over the parameter file's.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Write the chunks (trajectory_msgs/JointTrajectory) and the messages of every output to this MCAP file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How fast the bag's clock runs, from 0.001 to 1000: 1.0 is real time; `max` waits for nothing.
    #[arg(long, value_name = "RATE", default_value = "max")]
    rate: Rate,
    /// Device that runs the model; wins over the parameter file's.
    #[arg(long)]
    device: Option<String>,
    /// Threads of the CPU device, 0 for one per core; wins over the parameter file's.
    #[arg(long)]
    threads: Option<u32>,
    /// Seed of the noise; wins over the parameter file's.
    #[arg(long)]
    seed: Option<u32>,
    /// Let the loop choose frames and joint states by the messages' times, though the bag says which were used.
    #[arg(long)]
    ignore_cycles: bool,
    /// Write the latencies of all stages into a folder in this one (HdrHistogram's .hgrm, and JSON), as the node does.
    #[arg(long, value_name = "DIR")]
    latencies: Option<PathBuf>,
    /// Show the replay on the dashboard, at an address such as 127.0.0.1:9464; best with --rate.
    #[arg(long, value_name = "ADDRESS")]
    dashboard: Option<SocketAddr>,
}

#[derive(Clone, Copy)]
enum Rate {
    Max,
    Times(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Rate::Max),
            text => rate(text).map(Rate::Times).map_err(|message| format!("{message}, or max")),
        }
    }
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let values = values(&options)?;
    let settings = Settings::from_values(&values)?;
    options.latencies.iter().try_for_each(|folder| files::try_folder(folder))?;
    let mut bag = Bag::open(&options.bag)?;
    for problem in bag.problems() {
        eprintln!("warning: {problem}");
    }
    let topics = Topics::find(&bag, &settings)?;
    let wiring = control::assemble(&settings, &Bar::default())?;
    // There is no robot that could move.
    wiring.enable.set(true);
    for remark in wiring.monitor.remarks() {
        eprintln!("note: {remark}");
    }
    eprintln!("replaying {} on {}", options.bag.display(), wiring.monitor.device());
    let shown = Shown::default();
    let _dashboard =
        options.dashboard.map(|at| shown.dashboard(at, &wiring.monitor, &settings)).transpose()?;
    let outgoing = Outgoing::new(&settings, options.output.as_deref())?;
    let pace = Pace::new(options.rate);
    let mut player =
        Player { topics, wiring, values, pace, outgoing, shown, tick: None, progress: None, clock: Stamp(0) };
    let followed = if follow::has_cycles(&bag) && !options.ignore_cycles {
        eprintln!(
            "the bag says what each cycle used; the same is used again (--ignore-cycles lets the loop choose)"
        );
        Some(follow::follow(&mut bag, &settings, &mut player)?)
    } else {
        player.play(&mut bag)?;
        None
    };

    let snapshot = player.wiring.monitor.snapshot();
    print!("{snapshot}");
    if let Some(error) = &snapshot.last_error {
        println!("\nlast error: {error}");
    }
    if let Some(folder) = &options.latencies {
        let files = telemetry::dump(player.wiring.monitor.metrics(), folder)
            .with_context(|| format!("cannot write latencies into {}", folder.display()))?;
        println!("\n{} files with latencies are in {}", files.len(), folder.display());
    }
    if snapshot.chunks == 0 {
        bail!("the bag gave no chunk: {}", control::why_no_chunk(&snapshot, &settings));
    }
    if let (Some((chunks, messages)), Some(path)) = (player.outgoing.finish()?, &options.output) {
        let outputs = if settings.outputs.is_empty() {
            String::new()
        } else {
            format!(" and {messages} messages of outputs")
        };
        println!("\n{chunks} chunks{outputs} written to {}", path.display());
    }
    if let Some(Followed { chunks, outputs, failed }) = followed {
        println!("\nof {} recorded chunks, {chunks}; {failed} cycles could not be repeated", chunks.recorded);
        if outputs.recorded > 0 {
            println!("of {} recorded messages of outputs, {outputs}", outputs.recorded);
        }
        if chunks.different + outputs.different > 0 {
            println!("(other parameters, another checkpoint, or a CPU with other kernels give other bits)");
        }
    }
    Ok(())
}

/// A bag's way through the loop.
struct Player {
    topics: Topics,
    wiring: Wiring,
    /// The parameters in force.
    values: BTreeMap<String, Value>,
    pace: Pace,
    outgoing: Outgoing,
    shown: Shown,
    /// When the streams' next tick is; none while they have nothing to follow.
    tick: Option<Stamp>,
    progress: Option<ProgressBar>,
    /// The bag's time.
    clock: Stamp,
}

impl Player {
    /// Every message at its log time, and a step of the cycle after it; between them the streams tick.
    fn play(&mut self, bag: &mut Bag) -> anyhow::Result<()> {
        let names: Vec<String> = self.topics.names().into_iter().map(str::to_owned).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let messages = bag.messages(&names)?;
        self.progress = Some(progress(messages.len() as u64));
        for message in messages {
            self.progress.iter().for_each(|progress| progress.inc(1));
            let message = match message {
                Ok(message) => message,
                Err(unreadable) => {
                    let at = self.clock;
                    self.topics.refuse(unreadable.topic, &unreadable, at, &self.wiring);
                    self.tell_news();
                    continue;
                }
            };
            self.tick_until(message.log_time)?;
            self.pace.wait_for(message.log_time);
            self.clock = message.log_time;
            // What is wrong with a sensor's messages is told once, and counted.
            let target = self.topics.target(&message);
            let is_sensor = matches!(target, Some(Target::Camera(..) | Target::Joints(_)));
            match self.put(&message) {
                Err(error) if !is_sensor => self.warn(&format_args!("{error:#}")),
                _ => self.tell_news(),
            }
            self.wiring.cycle.step(message.log_time);
            if let Some(chunk) = self.wiring.chunks.try_recv(message.log_time) {
                let messages = self.outgoing.of_chunk(&chunk, self.wiring.chunks.motion())?;
                self.outgoing.write(&messages, message.log_time)?;
                self.shown.set(chunk);
                self.tick.get_or_insert(message.log_time);
            }
        }
        self.progress.take().iter().for_each(ProgressBar::finish_and_clear);
        Ok(())
    }

    fn put(&mut self, message: &Message) -> anyhow::Result<()> {
        if self.topics.target(message) == Some(Target::Parameters) {
            let event: ParameterEvent = self.topics.decode(message, &self.wiring)?;
            return if event.node == NODE { self.change(&event) } else { Ok(()) };
        }
        self.topics.put(message, &mut self.wiring)
    }

    /// Sets what somebody set then. The prompt has a topic of its own.
    fn change(&mut self, event: &ParameterEvent) -> anyhow::Result<()> {
        let changes = event.changed_parameters.iter().filter(|parameter| parameter.name != "prompt");
        let changes: Vec<(&str, Value)> =
            changes.map(|parameter| (parameter.name.as_str(), (&parameter.value).into())).collect();
        let mut values = self.values.clone();
        values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let change = self.wiring.tuner.prepare(&Settings::from_values(&values)?)?;
        self.wiring.tuner.apply(change, &changes);
        self.values = values;
        Ok(())
    }

    /// The streams' ticks before a message, each at its time.
    fn tick_until(&mut self, end: Stamp) -> anyhow::Result<()> {
        let Self { wiring, outgoing, tick: next, .. } = self;
        let Some(stream) = &mut wiring.stream else { return Ok(()) };
        while let Some(now) = next.filter(|next| *next < end) {
            let mut messages = Vec::new();
            let ticks = stream.try_tick(now, |tick| messages = outgoing.of_tick(tick));
            outgoing.write(&messages, now)?;
            *next = ticks.then_some(Stamp(now.0.saturating_add(stream.period_ns())));
        }
        Ok(())
    }

    /// Tells what is new about messages.
    fn tell_news(&self) {
        for line in self.wiring.monitor.metrics().complaints.news() {
            self.warn(&line);
        }
    }

    fn warn(&self, warning: &dyn Display) {
        match &self.progress {
            Some(progress) => progress.suspend(|| eprintln!("warning: {warning}")),
            None => eprintln!("warning: {warning}"),
        }
    }
}

/// The last chunk, for the dashboard.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Option<Chunk>>>);

impl Shown {
    fn set(&self, chunk: Chunk) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunk);
    }

    fn dashboard(
        &self,
        address: SocketAddr,
        monitor: &Monitor,
        settings: &Settings,
    ) -> anyhow::Result<Dashboard> {
        let shown = self.clone();
        let sources = Sources {
            monitor: monitor.clone(),
            settings: settings.clone().into(),
            chunk: Box::new(move || shown.0.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        };
        let dashboard = Dashboard::start(address, sources)?;
        eprintln!("the dashboard is at http://{}", dashboard.address());
        Ok(dashboard)
    }
}

/// The parameter file's values, with the options in place of what they name.
fn values(options: &Options) -> anyhow::Result<BTreeMap<String, Value>> {
    let recorded = options.bag.join(PARAMETERS_FILE);
    let config = match &options.config {
        Some(config) => config,
        None if recorded.is_file() => &recorded,
        None => bail!("name the parameter file with --config FILE; the bag has no {PARAMETERS_FILE}"),
    };
    let mut values = read_parameters(config, NODE_NAME)?;
    let path = |path: &PathBuf| Value::Text(path.display().to_string());
    let options = [
        ("checkpoint", options.checkpoint.as_ref().map(path)),
        ("device", options.device.clone().map(Value::Text)),
        ("threads", options.threads.map(|threads| Value::Integer(threads.into()))),
        ("seed", options.seed.map(|seed| Value::Integer(seed.into()))),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            values.insert(name.into(), value);
        }
    }
    Ok(values)
}

/// Holds messages back until their time has come.
struct Pace {
    rate: Rate,
    /// When which log time was.
    start: Option<(Instant, Stamp)>,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        Self { rate, start: None }
    }

    fn wait_for(&mut self, time: Stamp) {
        let Rate::Times(rate) = self.rate else { return };
        let (began, first) = *self.start.get_or_insert((Instant::now(), time));
        let due = Duration::try_from_secs_f64(time.ms_since(first) / 1e3 / rate).unwrap_or_default();
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

fn progress(messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} messages {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(messages), ProgressDrawTarget::stderr()).with_style(style);
    bar.set_message("replaying");
    bar
}
