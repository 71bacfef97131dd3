//! The player: publishes a bag's topics with its timing, as the robot's drivers would. Called by `cli play`.
//!
//! Messages go out as the bytes that were recorded; only the stamp in their header is moved to the present.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use r2r::qos::QosProfile;

use super::connect::connect;
use super::stop::Stop;
use crate::bag::messages::{CompressedImage, Image, JointState, JointTrajectory};
use crate::bag::{Bag, Topic};
use crate::observe::messages::Stamp;

/// What is played, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub bag: PathBuf,
    /// 2.0 is twice as fast as recorded.
    pub rate: f64,
    /// Start again at the end.
    pub looped: bool,
    /// Pause before the first message, after the subscribers are there.
    pub delay: Duration,
    pub stamp: StampFrom,
    /// Publish the bag's time on `/clock`, for nodes with `use_sim_time`.
    pub clock: bool,
    /// Wait until so many of the topics have a subscriber.
    pub wait_for_subscribers: usize,
}

/// Which stamp a message's header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StampFrom {
    /// The present, as if the sensors were here.
    Now,
    /// As recorded.
    Bag,
}

/// Plays until the end of the bag, or SIGINT or SIGTERM.
pub fn play(options: &Options) -> anyhow::Result<()> {
    let mut bag = Bag::open(&options.bag)?;
    for problem in bag.problems() {
        eprintln!("warning: {problem}");
    }
    let timing = Timing::of(&bag);
    let mut node = connect("pi0_player")?;
    let stop = Stop::on_signals(std::sync::Arc::default())?;
    let outputs = outputs(&mut node, bag.topics())?;
    let clock = if options.clock { Some(ClockPublisher::new(&mut node)?) } else { None };
    if !wait_for_subscribers(&outputs, options.wait_for_subscribers, &stop)? {
        return Ok(());
    }
    if !stop.sleep_until(Instant::now() + options.delay) {
        return Ok(());
    }

    eprintln!(
        "playing {} ({:.1} s, {} topics) at rate {}",
        options.bag.display(),
        timing.span.as_secs_f64(),
        outputs.iter().flatten().count(),
        options.rate
    );
    let mut sent = 0;
    let mut start = Present::now();
    loop {
        let (count, finished) = pass(&mut bag, &outputs, clock.as_ref(), options, &timing, start, &stop)?;
        sent += count;
        if !finished || !options.looped {
            break;
        }
        start = start.after((timing.span + timing.gap).div_f64(options.rate));
    }
    eprintln!("{sent} messages published");
    Ok(())
}

/// Publishes every message once. Returns how many, and whether it got to the end.
fn pass(
    bag: &mut Bag,
    outputs: &[Option<Output>],
    clock: Option<&ClockPublisher>,
    options: &Options,
    timing: &Timing,
    start: Present,
    stop: &Stop,
) -> anyhow::Result<(u64, bool)> {
    let names: Vec<String> = bag.topics().iter().map(|topic| topic.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut sent = 0;
    for message in bag.messages(&names)? {
        let mut message = match message {
            Ok(message) => message,
            Err(problem) => {
                eprintln!("warning: {problem}");
                continue;
            }
        };
        let Some(output) = &outputs[message.topic] else {
            continue;
        };
        if !stop.sleep_until(start.instant + timing.since_start(message.log_time, options.rate)) {
            return Ok((sent, false));
        }
        if let Some(clock) = clock {
            clock.publish(message.log_time)?;
        }
        if options.stamp == StampFrom::Now && output.stamped {
            let present = |recorded| start.stamp_of(recorded, timing.first, options.rate);
            move_stamp(&mut message.data, present)
                .with_context(|| format!("a message on {} has no stamp", output.topic))?;
        }
        output
            .publisher
            .publish_raw(&message.data)
            .with_context(|| format!("cannot publish {}", output.topic))?;
        sent += 1;
    }
    Ok((sent, true))
}

/// When a bag's messages come, by the bag's clock.
struct Timing {
    first: Stamp,
    span: Duration,
    /// Between the last message and the first of the next round.
    gap: Duration,
}

impl Timing {
    fn of(bag: &Bag) -> Self {
        let (first, last) = bag.span();
        let span = Duration::from_nanos(last.0.abs_diff(first.0));
        // The period of the slowest regular topic, so that it goes on as if there were no seam.
        let intervals = bag.topics().iter().map(|topic| topic.count.saturating_sub(1));
        let fewest = intervals.filter(|intervals| *intervals > 0).min();
        let gap = fewest.map_or(Duration::from_secs(1), |fewest| span.div_f64(fewest as f64));
        Self { first, span, gap }
    }

    fn since_start(&self, log_time: Stamp, rate: f64) -> Duration {
        Duration::from_nanos(log_time.0.abs_diff(self.first.0)).div_f64(rate)
    }
}

/// The moment at which a round through the bag starts, on both of this machine's clocks.
#[derive(Clone, Copy)]
struct Present {
    instant: Instant,
    stamp: Stamp,
}

impl Present {
    fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            instant: Instant::now(),
            stamp: Stamp(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)),
        }
    }

    fn after(self, duration: Duration) -> Self {
        Self {
            instant: self.instant + duration,
            stamp: Stamp(self.stamp.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))),
        }
    }

    /// The present counterpart of a stamp in the bag that starts at `first`. Equal stamps stay equal: frames that were
    /// taken together still are.
    fn stamp_of(self, recorded: Stamp, first: Stamp, rate: f64) -> Stamp {
        let after = recorded.0.saturating_sub(first.0) as f64 / rate;
        Stamp(self.stamp.0.saturating_add(after.round() as i64))
    }
}

/// The bag's time on `/clock`.
struct ClockPublisher(r2r::Publisher<r2r::rosgraph_msgs::msg::Clock>);

impl ClockPublisher {
    fn new(node: &mut r2r::Node) -> anyhow::Result<Self> {
        let publisher = node.create_publisher("/clock", QosProfile::default());
        publisher.map(Self).context("cannot publish /clock")
    }

    fn publish(&self, time: Stamp) -> anyhow::Result<()> {
        let mut message = r2r::rosgraph_msgs::msg::Clock::default();
        (message.clock.sec, message.clock.nanosec) = time.to_parts();
        self.0.publish(&message).context("cannot publish /clock")
    }
}

/// A topic that is published.
struct Output {
    topic: String,
    publisher: r2r::PublisherUntyped,
    /// Whether messages start with a `std_msgs/Header`.
    stamped: bool,
}

/// A publisher for each topic of the bag; none for what has no messages or a type that this program does not know.
fn outputs(node: &mut r2r::Node, topics: &[Topic]) -> anyhow::Result<Vec<Option<Output>>> {
    const STAMPED: [&str; 4] = [Image::TYPE, CompressedImage::TYPE, JointState::TYPE, JointTrajectory::TYPE];
    let output = |topic: &Topic| {
        if topic.count == 0 {
            return Ok(None);
        }
        match node.create_publisher_untyped(&topic.name, &topic.type_name, QosProfile::default()) {
            Ok(publisher) => Ok(Some(Output {
                topic: topic.name.clone(),
                publisher,
                stamped: STAMPED.contains(&topic.type_name.as_str()),
            })),
            Err(r2r::Error::InvalidMessageType { .. }) => {
                eprintln!("warning: {} is not played: {} is not built in", topic.name, topic.type_name);
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot publish {}", topic.name)),
        }
    };
    topics.iter().map(output).collect()
}

/// False when it is time to stop instead.
fn wait_for_subscribers(outputs: &[Option<Output>], wanted: usize, stop: &Stop) -> anyhow::Result<bool> {
    const INTERVAL: Duration = Duration::from_millis(50);
    let published = outputs.iter().flatten().count();
    if wanted > published {
        bail!("--wait-for-subscribers {wanted}: only {published} topics are published");
    }
    if wanted > 0 {
        eprintln!("waiting for subscribers on {wanted} of {published} topics");
    }
    loop {
        let mut subscribed = 0;
        for output in outputs.iter().flatten() {
            subscribed += usize::from(output.publisher.get_inter_process_subscription_count()? > 0);
        }
        if subscribed >= wanted {
            return Ok(true);
        }
        if !stop.sleep_until(Instant::now() + INTERVAL) {
            return Ok(false);
        }
    }
}

/// Replaces the stamp of a CDR message that starts with a `std_msgs/Header`: seconds and nanoseconds follow the four
/// bytes that say the byte order.
fn move_stamp(data: &mut [u8], present: impl Fn(Stamp) -> Stamp) -> Option<()> {
    let [_, order, _, _, sec @ ..] = data.get_mut(..8)? else {
        return None;
    };
    let little_endian = *order == 1;
    let sec: [u8; 4] = (&*sec).try_into().ok()?;
    let nanosec: [u8; 4] = data.get(8..12)?.try_into().ok()?;
    let recorded = if little_endian {
        Stamp::from_parts(i32::from_le_bytes(sec), u32::from_le_bytes(nanosec))
    } else {
        Stamp::from_parts(i32::from_be_bytes(sec), u32::from_be_bytes(nanosec))
    };
    // A driver that leaves its stamps out does so here too.
    if recorded.0 == 0 {
        return Some(());
    }
    let (sec, nanosec) = present(recorded).to_parts();
    let (sec, nanosec) = if little_endian {
        (sec.to_le_bytes(), nanosec.to_le_bytes())
    } else {
        (sec.to_be_bytes(), nanosec.to_be_bytes())
    };
    data[4..8].copy_from_slice(&sec);
    data[8..12].copy_from_slice(&nanosec);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bag::cdr;
    use crate::bag::messages::Header;

    fn joint_state(stamp: Stamp) -> JointState {
        JointState {
            header: Header { stamp: stamp.into(), frame_id: "base".into() },
            name: vec!["waist".into()],
            position: vec![0.5],
            ..JointState::default()
        }
    }

    #[test]
    fn only_the_stamp_of_a_message_moves() {
        let (recorded, present) = (Stamp(1_500_000_000), Stamp(1_700_000_000_250_000_000));
        let mut data = cdr::encode(&joint_state(recorded)).unwrap();
        move_stamp(&mut data, |stamp| {
            assert_eq!(stamp, recorded);
            present
        });
        assert_eq!(cdr::decode::<JointState>(&data).unwrap(), joint_state(present));
    }

    #[test]
    fn a_big_endian_stamp_moves_too() {
        let mut data = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 42];
        move_stamp(&mut data, |stamp| Stamp(stamp.0 + 1_000_000_001));
        assert_eq!(data, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 6, 42]);
    }

    #[test]
    fn a_stamp_of_0_stays_0() {
        let mut data = cdr::encode(&joint_state(Stamp(0))).unwrap();
        move_stamp(&mut data, |_| Stamp(1_700_000_000_000_000_000));
        assert_eq!(cdr::decode::<JointState>(&data).unwrap(), joint_state(Stamp(0)));
    }

    #[test]
    fn a_message_too_short_for_a_stamp_is_refused() {
        assert_eq!(move_stamp(&mut [0, 1, 0, 0, 1, 0, 0, 0, 2], |stamp| stamp), None);
    }

    #[test]
    fn equal_stamps_stay_equal_and_distances_shrink_with_the_rate() {
        let start = Present::now();
        let at = |recorded| start.stamp_of(Stamp(recorded), Stamp(1_000_000_000), 2.0);
        assert_eq!(at(1_000_000_000), start.stamp);
        assert_eq!(at(1_400_000_000).0 - start.stamp.0, 200_000_000);
        assert_eq!(at(1_400_000_000), at(1_400_000_000));
    }

    #[test]
    fn a_stamp_beyond_all_times_becomes_the_last_or_the_first_one() {
        let start = Present::now();
        assert_eq!(start.stamp_of(Stamp(i64::MAX), Stamp(-1), 0.001), Stamp(i64::MAX));
        assert_eq!(start.stamp_of(Stamp(i64::MIN), Stamp(i64::MAX), 0.001), Stamp(i64::MIN + start.stamp.0));
    }
}
