//! A recording of `pi0_node record` through the loop: each cycle with the images, the joint state, the prompt, the
//! denoising steps and the times that it had, so that a machine of another speed makes the same chunks. Called by
//! `replay` when the bag has the topic of the cycles.

use std::collections::{BTreeMap, HashMap, VecDeque};

use anyhow::{Context, bail};

use super::Player;
use super::outgoing::Outgoing;
use super::topics::Target;
use crate::bag::messages::{Cycle, Guide, JointTrajectory, StreamTick, Text};
use crate::bag::parameters::ParameterEvent;
use crate::bag::{
    Bag, CHUNK_TOPIC, CYCLE_TOPIC, GUIDE_TOPIC, Message, PARAMETER_TOPIC, PROMPT_TOPIC, STREAM_TOPIC, cdr,
};
use crate::control::{Arrival, Chunk, Outcome, RecordedGuide, Repeat, TickState, Wiring};
use crate::observe::messages::Stamp;
use crate::policy::Schedule;
use crate::settings::{Settings, Transport};
use crate::telemetry::DropReason;

/// Whether a bag says what its cycles used.
pub fn has_cycles(bag: &Bag) -> bool {
    bag.topics()
        .iter()
        .any(|topic| topic.name == CYCLE_TOPIC && topic.type_name == Cycle::TYPE && topic.count > 0)
}

/// What came of following a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Followed {
    pub chunks: Compared,
    /// The messages of all outputs.
    pub outputs: Compared,
    /// Cycles that could not be repeated.
    pub failed: u64,
}

/// How many messages were recorded, how many of them came out bit for bit, and how many came out otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub recorded: u64,
    pub same: u64,
    pub different: u64,
}

impl Compared {
    fn note(&mut self, same: bool) {
        *(if same { &mut self.same } else { &mut self.different }) += 1;
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} came out bit for bit, {} differ", self.same, self.different)
    }
}

/// An image that some cycle used: its camera among the targets, and which one it is.
type Key = (Target, Arrival);

/// Repeats every cycle of the recording, and every tick of its streams.
pub fn follow(bag: &mut Bag, settings: &Settings, player: &mut Player) -> anyhow::Result<Followed> {
    let mut recording = Recording::read(bag, &player.outgoing)?;
    let mut last_use: HashMap<Key, usize> = HashMap::new();
    for (index, cycle) in recording.cycles.iter().enumerate() {
        for key in keys(cycle, settings) {
            last_use.insert(key, index);
        }
    }
    let names = player.topics.names();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut messages = bag.messages(&names)?.peekable();
    let mut kept: HashMap<Key, Message> = HashMap::new();
    let mut prompts: VecDeque<String> = std::mem::take(&mut recording.prompts).into();
    let mut changes: VecDeque<ParameterEvent> = std::mem::take(&mut recording.changes).into();
    let mut followed = Followed::default();
    followed.outputs.recorded = recording.outputs.values().map(|messages| messages.len() as u64).sum();
    let cycles = std::mem::take(&mut recording.cycles);
    let mut images: Vec<Option<Arrival>> = Vec::new();
    for (index, cycle) in cycles.iter().enumerate() {
        let left = Stamp::from(cycle.left);
        while let Some(message) = messages.next_if(|message| match message {
            Ok(message) => message.log_time <= left,
            Err(_) => true,
        }) {
            let message = match message {
                Ok(message) => message,
                Err(unreadable) => {
                    player.warn(&unreadable);
                    continue;
                }
            };
            if let Some(key) = player.topics.key(&message).filter(|key| last_use.contains_key(key)) {
                kept.insert(key, message);
            }
        }
        player.pace.wait_for(left);
        while player.wiring.prompt.number() < cycle.prompt
            && let Some(prompt) = prompts.pop_front()
        {
            if let Err(error) = player.wiring.prompt.put(&prompt) {
                player.warn(&error);
            }
        }
        while player.wiring.tuner.number() < cycle.parameters
            && let Some(event) = changes.pop_front()
        {
            if let Err(error) = player.change(&event) {
                player.warn(&format_args!("{error:#}"));
            }
        }
        followed.chunks.recorded += u64::from(cycle.sent);
        let guide = recording.guides.get(&cycle.sequence);
        let repeated = repeat(cycle, guide, settings, player, &kept, &mut images);
        kept.retain(|key, _| last_use.get(key).is_some_and(|&last| last > index));
        match repeated.with_context(|| format!("cycle {} cannot be repeated", cycle.sequence)) {
            Err(error) => {
                followed.failed += 1;
                player.warn(&format_args!("{error:#}"));
            }
            Ok(()) if is_live_only(cycle) => {}
            Ok(()) => {
                let Some(chunk) = player.wiring.chunks.try_recv(left) else {
                    followed.chunks.different += u64::from(cycle.sent);
                    continue;
                };
                let messages = player.outgoing.of_chunk(&chunk, player.wiring.chunks.motion())?;
                for (topic, data) in &messages {
                    if topic == CHUNK_TOPIC {
                        followed.chunks.note(recording.has_chunk(cycle, &chunk, data));
                    } else {
                        followed.outputs.note(recording.take_output(topic, left).as_ref() == Some(data));
                    }
                }
                player.outgoing.write(&messages, left)?;
                player.shown.set(chunk);
                recording.repeat_ticks(cycle.sequence, player, &mut followed.outputs)?;
            }
        }
    }
    Ok(followed)
}

/// Whether a chunk was refused for what a replay does not have: somebody who disables it, a watchdog, a network.
fn is_live_only(cycle: &Cycle) -> bool {
    let reasons = [DropReason::Disabled, DropReason::Stalled, DropReason::Unsent];
    cycle.hold.is_empty() && reasons.iter().any(|reason| reason.name() == cycle.refused)
}

/// Puts a cycle's messages in and repeats it. `images` are those of the frame set before.
fn repeat(
    cycle: &Cycle,
    guide: Option<&Guide>,
    settings: &Settings,
    player: &mut Player,
    kept: &HashMap<Key, Message>,
    images: &mut Vec<Option<Arrival>>,
) -> anyhow::Result<()> {
    let left = Stamp::from(cycle.left);
    // Joined of whichever messages: the cycle knows what it used.
    player.wiring.joints.repeat(joints_of(cycle), &cycle.joint_positions)?;
    if let Some(reason) = DropReason::ALL.into_iter().find(|reason| reason.name() == cycle.hold) {
        player.wiring.cycle.repeat_hold(reason, Stamp::from(cycle.header.stamp));
        return Ok(());
    }
    let set = arrivals(cycle);
    if set.len() != player.wiring.cameras.len() {
        bail!("it had {} cameras, and now there are {}", set.len(), player.wiring.cameras.len());
    }
    let is_new = set != *images;
    if is_new {
        let there = set.iter().enumerate().filter_map(|(camera, arrival)| Some((camera, (*arrival)?)));
        for (camera, arrival) in there {
            let target = camera_target(camera, settings);
            let message = kept.get(&(target, arrival)).with_context(|| {
                format!(
                    "the image of {} with stamp {} is not in the bag",
                    player.wiring.cameras[camera].camera().name,
                    arrival.stamp
                )
            })?;
            player.topics.put(message, &mut player.wiring)?;
        }
        *images = set;
    }
    let guide = guide.map(recorded_guide).transpose()?;
    let outcome = player.wiring.cycle.repeat(&Repeat {
        new_set: is_new.then_some(images),
        observation: cycle.header.stamp.into(),
        looked: cycle.looked.into(),
        acted: cycle.acted.into(),
        denoising_steps: cycle.denoising_steps as usize,
        guide,
    });
    match outcome.inspect_err(|_| images.clear())? {
        Outcome::Chunk => Ok(()),
        other => bail!("it gave {other:?} instead of a chunk for {left}"),
    }
}

fn recorded_guide(guide: &Guide) -> anyhow::Result<RecordedGuide<'_>> {
    let Guide { delay, until, schedule, positions, .. } = guide;
    let schedule = Schedule::named(schedule)
        .with_context(|| format!("its chunk was led by the schedule '{schedule}', which is unknown"))?;
    Ok(RecordedGuide { delay: *delay as usize, until: *until as usize, schedule, positions })
}

fn joints_of(cycle: &Cycle) -> Arrival {
    Arrival { stamp: cycle.joint_stamp.into(), received: cycle.joint_received.into() }
}

/// Each camera's image; none where it was missing.
fn arrivals(cycle: &Cycle) -> Vec<Option<Arrival>> {
    let pairs = cycle.image_stamps.iter().zip(&cycle.image_received);
    let arrivals =
        pairs.map(|(&stamp, &received)| Arrival { stamp: stamp.into(), received: received.into() });
    arrivals.map(|arrival| (arrival != Arrival::default()).then_some(arrival)).collect()
}

fn camera_target(camera: usize, settings: &Settings) -> Target {
    let mut with_topic = settings.cameras.iter().filter(|camera| camera.topic.is_some());
    Target::Camera(camera, with_topic.nth(camera).map_or(Transport::Raw, |camera| camera.transport))
}

/// Every image that a cycle used.
fn keys(cycle: &Cycle, settings: &Settings) -> Vec<Key> {
    let images = arrivals(cycle).into_iter().enumerate();
    images.filter_map(|(camera, arrival)| Some((camera_target(camera, settings), arrival?))).collect()
}

/// What a recording has beside its inputs.
#[derive(Default)]
struct Recording {
    /// In the order in which they were made.
    cycles: Vec<Cycle>,
    /// By the cycle's number: what led its chunk.
    guides: BTreeMap<u64, Guide>,
    prompts: Vec<String>,
    changes: Vec<ParameterEvent>,
    /// By observation and the time when they were sent, as encoded.
    chunks: BTreeMap<(Stamp, Stamp), Vec<u8>>,
    /// In the order in which they were made.
    ticks: VecDeque<StreamTick>,
    /// By topic: what was sent when, as encoded.
    outputs: HashMap<String, VecDeque<(Stamp, Vec<u8>)>>,
}

impl Recording {
    fn read(bag: &mut Bag, outgoing: &Outgoing) -> anyhow::Result<Self> {
        let topics = bag.topics().to_vec();
        let mut recording = Self::default();
        let own = [CYCLE_TOPIC, GUIDE_TOPIC, PROMPT_TOPIC, PARAMETER_TOPIC, STREAM_TOPIC].map(str::to_owned);
        let sent = outgoing.topics().into_iter().map(|(topic, _)| topic);
        let names: Vec<String> = own.into_iter().chain(sent).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for message in bag.messages(&names)? {
            let message = match message {
                Ok(message) => message,
                Err(unreadable) => {
                    eprintln!("warning: {unreadable}");
                    continue;
                }
            };
            let damaged =
                || format!("a message on {} logged at {}", topics[message.topic].name, message.log_time);
            match topics[message.topic].name.as_str() {
                CYCLE_TOPIC => recording.cycles.push(cdr::decode(&message.data).with_context(damaged)?),
                GUIDE_TOPIC => {
                    let guide: Guide = cdr::decode(&message.data).with_context(damaged)?;
                    recording.guides.insert(guide.sequence, guide);
                }
                PROMPT_TOPIC => {
                    recording.prompts.push(cdr::decode::<Text>(&message.data).with_context(damaged)?.data)
                }
                PARAMETER_TOPIC => recording.changes.push(cdr::decode(&message.data).with_context(damaged)?),
                STREAM_TOPIC => recording.ticks.push_back(cdr::decode(&message.data).with_context(damaged)?),
                CHUNK_TOPIC => {
                    let chunk: JointTrajectory = cdr::decode(&message.data).with_context(damaged)?;
                    recording.chunks.insert((chunk.header.stamp.into(), message.log_time), message.data);
                }
                output => {
                    let output = recording.outputs.entry(output.to_owned()).or_default();
                    output.push_back((message.log_time, message.data));
                }
            }
        }
        recording.cycles.sort_by_key(|cycle| cycle.sequence);
        Ok(recording)
    }

    /// Whether the chunk of a cycle was recorded as these bytes.
    fn has_chunk(&self, cycle: &Cycle, chunk: &Chunk, data: &[u8]) -> bool {
        let left = Stamp::from(cycle.left);
        let at = |observation: Stamp| self.chunks.get(&(observation, left));
        // A hold that was sent in a chunk's place has a stamp of its own.
        at(cycle.header.stamp.into()).or_else(|| at(chunk.observation)).is_some_and(|found| found == data)
    }

    /// What an output sent at a time; what it sent before is not asked for again.
    fn take_output(&mut self, topic: &str, at: Stamp) -> Option<Vec<u8>> {
        let messages = self.outputs.get_mut(topic)?;
        let found = messages.iter().position(|(time, _)| *time == at)?;
        messages.drain(..=found).next_back().map(|(_, data)| data)
    }

    /// Repeats the ticks that followed the chunk of this number, which has just been sent.
    fn repeat_ticks(
        &mut self,
        sequence: u64,
        player: &mut Player,
        compared: &mut Compared,
    ) -> anyhow::Result<()> {
        // What followed a chunk that could not be repeated cannot be either.
        while self.ticks.pop_front_if(|tick| tick.sequence < sequence).is_some() {}
        while let Some(tick) = self.ticks.pop_front_if(|tick| tick.sequence == sequence) {
            let Wiring { stream: Some(stream), chunks, .. } = &mut player.wiring else { continue };
            let state = TickState::ALL.into_iter().find(|state| state.name() == tick.state);
            let state = state.with_context(|| format!("a tick is '{}', which is unknown", tick.state))?;
            let at = Stamp::from(tick.header.stamp);
            let messages = player.outgoing.of_tick(&stream.repeat(chunks.motion(), at, state));
            for (topic, data) in &messages {
                compared.note(self.take_output(topic, at).as_ref() == Some(data));
            }
            player.outgoing.write(&messages, at)?;
        }
        Ok(())
    }
}
