//! Listens to a robot's topics for a few seconds and says, topic by topic, whether they are what the node needs. Called by
//! `cli check --live`. Messages go through the same functions as in the node, so what is said here is what it would do.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::Stream;
use r2r::qos::{DurabilityPolicy, QosProfile, ReliabilityPolicy};
use r2r::sensor_msgs::msg as sensor;

use super::clock::Clock;
use super::connect::connect;
use super::graph::{Expected, JOINTS, expected_topics};
use super::inputs::{SENSOR_QOS, compressed_image, image, joint_state, ready};
use super::listeners::Listeners;
use super::parameters::use_sim_time;
use crate::check::Verdict;
use crate::control::stamp_trouble;
use crate::observe::messages::{JointState, Stamp};
use crate::observe::{ImagePreprocessor, Joined, JoinedJoints, JointOrder};
use crate::settings::{Settings, StampSource, Transport};
use crate::telemetry::Stamps;

/// Size that images are decoded to; whether they can be decoded does not depend on it.
const SIDE: usize = 224;

/// Listens for so many seconds.
pub fn check(settings: &Settings, seconds: f64) -> anyhow::Result<Vec<Verdict>> {
    let mut node = connect("pi0_check")?;
    let clock = Clock::new(use_sim_time(&node)?);
    let mut topics = Vec::new();
    let expected = expected_topics(settings);
    let transports =
        settings.cameras.iter().filter(|camera| camera.topic.is_some()).map(|camera| camera.transport);
    let reader = Rc::new(RefCell::new(JointReader::new(settings)));
    for (expected, transport) in expected.iter().zip(transports.map(Some).chain(std::iter::repeat(None))) {
        topics.push(Listener::new(&mut node, settings, expected, transport, &reader)?);
    }
    let mut listeners = Listeners::new(&mut node, settings)?;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        node.spin_once(Duration::from_millis(20));
        clock.update(&node);
        topics.iter_mut().for_each(|topic| (topic.drain)(&mut topic.seen, clock.now()));
        listeners.look();
    }
    let mut verdicts = Vec::new();
    for (topic, expected) in topics.iter().zip(&expected) {
        verdicts.extend(publishers(&node, expected));
        verdicts.extend(topic.seen.verdicts(expected, &topic.needs));
    }
    verdicts.push(reader.borrow().verdict());
    verdicts.extend(together(settings, &topics));
    verdicts.extend(listeners.verdicts());
    Ok(verdicts)
}

/// What a topic's messages must keep to.
struct Needs {
    max_age_ms: f64,
    /// Below this, there is something to say.
    least_hz: f64,
    /// Whether the time of arrival counts, whatever the stamps are.
    by_arrival: bool,
}

/// Notes what has come; the stamp is the clock's. Of messages that are somebody else's nothing is noted.
type Take = Box<dyn FnMut(&mut Seen, Stamp)>;

/// A subscription and what came.
struct Listener {
    seen: Seen,
    needs: Needs,
    /// Takes what is there.
    drain: Take,
}

/// What came on a topic.
#[derive(Default)]
struct Seen {
    /// When the first and the last came, by this machine's clock.
    span: Option<(Instant, Instant)>,
    stamps: Vec<Stamp>,
    /// Milliseconds from each stamp to its reception.
    ages_ms: Vec<f64>,
    /// Of the last message that could be used.
    what: Option<String>,
    /// Of the last that could not, and how many.
    refused: Option<(String, usize)>,
}

impl Seen {
    fn add(&mut self, stamp: Stamp, now: Stamp, what: Result<String, String>) {
        let at = Instant::now();
        self.span = Some((self.span.map_or(at, |(first, _)| first), at));
        self.stamps.push(stamp);
        self.ages_ms.push(now.ms_since(stamp));
        match what {
            Ok(what) => self.what = Some(what),
            Err(error) => self.refused = Some((error, self.refused.take().map_or(0, |(_, count)| count) + 1)),
        }
    }

    fn rate_hz(&self) -> Option<f64> {
        let (first, last) = self.span?;
        let seconds = (last - first).as_secs_f64();
        (self.stamps.len() > 1 && seconds > 0.0).then(|| (self.stamps.len() - 1) as f64 / seconds)
    }

    fn verdicts(&self, expected: &Expected, needs: &Needs) -> Vec<Verdict> {
        let part = expected.part.as_str();
        if self.stamps.is_empty() {
            let message = format!("no message came on {}", expected.topic);
            return vec![Verdict::error(part, message)];
        }
        let mut verdicts = Vec::new();
        if let Some((error, count)) = &self.refused {
            let message = format!("{count} of {} messages cannot be used: {error}", self.stamps.len());
            verdicts.push(Verdict::error(part, message));
        }
        if let Some(what) = &self.what {
            verdicts.push(Verdict::ok(part, what));
        }
        verdicts.push(match self.rate_hz() {
            None => Verdict::warning(part, "a single message came: listen longer with --seconds"),
            Some(rate) if rate < needs.least_hz => {
                Verdict::warning(part, format!("{rate:.1} Hz, less than {:.1} Hz", needs.least_hz))
            }
            Some(rate) => Verdict::ok(part, format!("{rate:.1} Hz")),
        });
        verdicts.push(self.age(part, needs));
        verdicts
    }

    fn age(&self, part: &str, needs: &Needs) -> Verdict {
        let (is_joints, unstamped) = (part == JOINTS, self.stamps.iter().all(|stamp| stamp.0 == 0));
        if needs.by_arrival {
            let setting = if is_joints { "joint_stamps" } else { "camera_stamps" };
            return Verdict::ok(part, format!("taken when it arrives ({setting}), whatever its stamps are"));
        }
        // Images are matched by their stamps; joint states only age by them.
        if unstamped && is_joints {
            let message =
                "the stamps are 0: its age counts from reception, so delays on the way are not seen";
            return Verdict::warning(part, message);
        }
        let mut ages = self.ages_ms.clone();
        ages.sort_by(f64::total_cmp);
        let (median, largest) = (ages[ages.len() / 2], ages[ages.len() - 1]);
        let stamps = if unstamped { Stamps::Zero } else { Stamps::LagMs(median) };
        let remedy =
            if is_joints { "set joint_stamps to arrival" } else { "set camera_stamps to arrival for it" };
        if let Some(trouble) = stamp_trouble(stamps, needs.max_age_ms, remedy) {
            return Verdict::error(part, trouble);
        }
        let said = format!("{median:.1} ms old on arrival (at most {largest:.1} ms)");
        if largest > needs.max_age_ms {
            Verdict::warning(part, format!("{said}; what is older than {} ms is not used", needs.max_age_ms))
        } else {
            Verdict::ok(part, said)
        }
    }
}

impl Listener {
    fn new(
        node: &mut r2r::Node,
        settings: &Settings,
        expected: &Expected,
        transport: Option<Transport>,
        reader: &Rc<RefCell<JointReader>>,
    ) -> anyhow::Result<Self> {
        let cannot = || format!("cannot subscribe to {}", expected.topic);
        let of_camera = settings.cameras.iter().find(|camera| camera.topic.as_ref() == Some(&expected.topic));
        let by_arrival = of_camera.is_some_and(|camera| camera.stamps == StampSource::Arrival);
        let camera = Needs { max_age_ms: settings.max_image_age_ms, least_hz: 1.0, by_arrival };
        // A chunk should start from a joint state that is hardly older than a point of it lasts.
        let joints = Needs {
            max_age_ms: settings.max_joint_age_ms,
            least_hz: 0.8 * settings.control_hz,
            by_arrival: settings.joint_stamps == StampSource::Arrival,
        };
        let mut pixels = vec![0.0; 3 * SIDE * SIDE];
        let mut preprocessor = ImagePreprocessor::new(SIDE, SIDE);
        Ok(match transport {
            Some(Transport::Raw) => {
                let images =
                    node.subscribe::<sensor::Image>(&expected.topic, SENSOR_QOS).with_context(cannot)?;
                listener(camera, images, move |message: sensor::Image| {
                    let what = format!("{}, {}x{}", message.encoding, message.width, message.height);
                    let image = image(&message);
                    let decoded = preprocessor.raw(&image, &mut pixels);
                    (image.stamp, Some(decoded.map(|()| what).map_err(|error| error.to_string())))
                })
            }
            Some(Transport::Compressed) => {
                let images = node
                    .subscribe::<sensor::CompressedImage>(&expected.topic, SENSOR_QOS)
                    .with_context(cannot)?;
                listener(camera, images, move |message: sensor::CompressedImage| {
                    let what = format!("{}, {} bytes", message.format, message.data.len());
                    let image = compressed_image(&message);
                    let decoded = preprocessor.compressed(&image, &mut pixels);
                    let remark =
                        preprocessor.take_remark().map(|remark| format!("; {remark}")).unwrap_or_default();
                    let what = format!("{what}{remark}");
                    (image.stamp, Some(decoded.map(|()| what).map_err(|error| error.to_string())))
                })
            }
            None => {
                let states =
                    node.subscribe::<sensor::JointState>(&expected.topic, SENSOR_QOS).with_context(cannot)?;
                let reader = Rc::clone(reader);
                listener(joints, states, move |message: sensor::JointState| {
                    let state = joint_state(&message);
                    (state.stamp, reader.borrow_mut().read(&state))
                })
            }
        })
    }
}

fn listener<M: 'static>(
    needs: Needs,
    mut messages: impl Stream<Item = M> + Unpin + 'static,
    mut read: impl FnMut(M) -> (Stamp, Option<Result<String, String>>) + 'static,
) -> Listener {
    let drain = move |seen: &mut Seen, now: Stamp| {
        for message in ready(&mut messages) {
            if let (stamp, Some(what)) = read(message) {
                seen.add(stamp, now, what);
            }
        }
    };
    Listener { seen: Seen::default(), needs, drain: Box::new(drain) }
}

/// Reads joint states of all topics as the node does, and looks where the joints stand.
struct JointReader {
    joined: JoinedJoints,
    positions: Vec<f64>,
    limits: Vec<(f64, f64)>,
}

impl JointReader {
    fn new(settings: &Settings) -> Self {
        let limit = |list: &[f64], joint: usize, none| list.get(joint).copied().unwrap_or(none);
        let (min, max) = (&settings.limits.position_min, &settings.limits.position_max);
        let joints = settings.joints.len();
        let ends = |joint| (limit(min, joint, f64::NEG_INFINITY), limit(max, joint, f64::INFINITY));
        let order = JointOrder::new(&settings.joints);
        Self {
            joined: JoinedJoints::new(order, &settings.limits.velocity_max, &settings.joint_scale),
            positions: vec![0.0; joints],
            limits: (0..joints).map(ends).collect(),
        }
    }

    /// What a message has; nothing for one that is somebody else's.
    fn read(&mut self, state: &JointState) -> Option<Result<String, String>> {
        let received = state.stamp;
        match self.joined.put(state, state.stamp, received) {
            Err(error) => return Some(Err(error.to_string())),
            Ok(Joined::Foreign) => return None,
            Ok(Joined::Partial | Joined::Whole) => {}
        }
        self.joined.copy_positions(&mut self.positions);
        let outside =
            self.positions.iter().zip(&self.limits).position(|(at, (min, max))| at < min || at > max);
        if let Some(joint) = outside.filter(|_| self.joined.is_whole()) {
            let (name, (min, max)) = (&self.joined.names()[joint], self.limits[joint]);
            return Some(Err(format!(
                "{name} stands at {:.4}, outside joint_position_min {min} and _max {max}: are its units others?",
                self.positions[joint]
            )));
        }
        let own = state.names.iter().filter(|name| self.joined.names().contains(name)).count();
        let (all, more) = (self.positions.len(), state.names.len() - own);
        let more = if more > 0 { format!(", and {more} that the model does not use") } else { String::new() };
        Some(Ok(if own == all {
            format!("all {all} joints are there{more}")
        } else {
            format!("{own} of {all} joints{more}")
        }))
    }

    /// Whether all joints have come, on whichever topics.
    fn verdict(&self) -> Verdict {
        match self.joined.missing() {
            Some(missing) => Verdict::error(JOINTS, missing),
            None => Verdict::ok(JOINTS, format!("all {} have come", self.positions.len())),
        }
    }
}

/// Who publishes a topic, as what, and whether the node's subscription gets it.
fn publishers(node: &r2r::Node, expected: &Expected) -> Vec<Verdict> {
    let part = expected.part.as_str();
    let Ok(found) = node.get_publishers_info_by_topic(&expected.topic, false) else {
        return vec![Verdict::warning(part, format!("who publishes {} is not known", expected.topic))];
    };
    if found.is_empty() {
        let message =
            format!("nobody publishes {}: is the driver running, on this ROS_DOMAIN_ID?", expected.topic);
        return vec![Verdict::error(part, message)];
    }
    let mut verdicts = Vec::new();
    for publisher in &found {
        let name = format!("{}/{}", publisher.node_namespace.trim_end_matches('/'), publisher.node_name);
        if publisher.topic_type != expected.type_name {
            let message = format!(
                "{} is published by {name} as {}, but {} is expected; see camera_transports",
                expected.topic, publisher.topic_type, expected.type_name
            );
            verdicts.push(Verdict::error(part, message));
        } else if let Some(why) = incompatible(&publisher.qos_profile) {
            verdicts.push(Verdict::error(part, format!("{} of {name} never arrives: {why}", expected.topic)));
        } else {
            let reliable = match publisher.qos_profile.reliability {
                ReliabilityPolicy::Reliable => "reliable",
                _ => "best effort",
            };
            verdicts.push(Verdict::ok(part, format!("{} from {name} ({reliable})", expected.topic)));
        }
    }
    if found.len() > 1 {
        let message = if part == JOINTS {
            format!("{} publishers on {}: each must have joints of its own", found.len(), expected.topic)
        } else {
            format!("{} publishers on {}: their messages mix", found.len(), expected.topic)
        };
        verdicts.push(Verdict::warning(part, message));
    }
    verdicts
}

/// Why a publisher and the node's subscription do not match, by ROS 2's rule that what is offered must not be less than
/// what is asked for.
fn incompatible(offered: &QosProfile) -> Option<&'static str> {
    let asks_reliable = matches!(SENSOR_QOS.reliability, ReliabilityPolicy::Reliable);
    let asks_local = matches!(SENSOR_QOS.durability, DurabilityPolicy::TransientLocal);
    if asks_reliable && matches!(offered.reliability, ReliabilityPolicy::BestEffort) {
        return Some("it is best effort, and reliable is asked for");
    }
    if asks_local && matches!(offered.durability, DurabilityPolicy::Volatile) {
        return Some("it is volatile, and transient local is asked for");
    }
    None
}

/// How far apart the cameras' frames are that belong together.
fn together(settings: &Settings, topics: &[Listener]) -> Option<Verdict> {
    let with_topic = settings.cameras.iter().filter(|camera| camera.topic.is_some());
    if with_topic.clone().any(|camera| camera.stamps == StampSource::Arrival) {
        return None;
    }
    // The joints come after the cameras.
    let cameras: Vec<&Vec<Stamp>> =
        topics.iter().take(with_topic.count()).map(|topic| &topic.seen.stamps).collect();
    let (first, others) = cameras.split_first()?;
    if others.is_empty() || cameras.iter().any(|stamps| stamps.is_empty()) {
        return None;
    }
    let nearest = |stamp: Stamp, camera: &[Stamp]| {
        camera.iter().map(|other| other.ms_since(stamp).abs()).fold(f64::INFINITY, f64::min)
    };
    let mut spreads: Vec<f64> = first
        .iter()
        .map(|&stamp| others.iter().map(|camera| nearest(stamp, camera)).fold(0.0, f64::max))
        .collect();
    spreads.sort_by(f64::total_cmp);
    let median = spreads[spreads.len() / 2];
    let tolerance = settings.sync_tolerance_ms;
    Some(if median > tolerance {
        let message = format!(
            "frames that belong together are {median:.1} ms apart, more than sync_tolerance_ms ({tolerance}): no frame set; \
             trigger the cameras together or raise it"
        );
        Verdict::error("frame sets", message)
    } else {
        Verdict::ok("frame sets", format!("frames are {median:.1} ms apart, within {tolerance} ms"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn seen(ages_ms: &[f64]) -> Seen {
        let mut seen = Seen::default();
        for (index, &age) in (1..).zip(ages_ms) {
            let stamp = Stamp(index * 1_000_000_000);
            seen.add(stamp, Stamp(stamp.0 + (age * 1e6) as i64), Ok("rgb8, 640x480".into()));
        }
        seen
    }

    const NEEDS: Needs = Needs { max_age_ms: 500.0, least_hz: 1.0, by_arrival: false };

    #[test]
    fn stamps_of_0_name_the_setting_that_takes_the_time_of_arrival() {
        let mut unstamped = Seen::default();
        unstamped.add(Stamp(0), Stamp(1_700_000_000_000_000_000), Ok(String::new()));
        let verdict = unstamped.age("camera base_0_rgb", &NEEDS);
        let expected =
            "its stamps are 0: let the driver stamp its messages, or set camera_stamps to arrival for it";
        assert_eq!((verdict.level, verdict.message.as_str()), (Level::Error, expected));
        assert_eq!(unstamped.age("joints", &NEEDS).level, Level::Warning);
        let by_arrival = Needs { by_arrival: true, ..NEEDS };
        assert_eq!(unstamped.age("camera base_0_rgb", &by_arrival).level, Level::Ok);
    }

    fn level(ages_ms: &[f64]) -> Level {
        seen(ages_ms).age("camera", &NEEDS).level
    }

    #[test]
    fn ages_tell_of_slow_drivers_and_of_other_clocks() {
        assert_eq!(level(&[10.0, 20.0, 30.0]), Level::Ok);
        assert_eq!(level(&[10.0, 20.0, 900.0]), Level::Warning);
        assert_eq!(level(&[800.0, 900.0, 900.0]), Level::Error);
        assert_eq!(level(&[-500.0, -400.0, -450.0]), Level::Error);
    }

    #[test]
    fn every_publisher_matches_the_nodes_subscription() {
        for offered in [QosProfile::default(), QosProfile::sensor_data()] {
            assert_eq!(incompatible(&offered), None);
        }
    }

    #[test]
    fn a_topic_without_messages_is_an_error() {
        let expected = Expected { part: "joints".into(), topic: "/joint_states".into(), type_name: "x" };
        let needs = Needs { least_hz: 50.0, ..NEEDS };
        assert_eq!(Seen::default().verdicts(&expected, &needs)[0].level, Level::Error);
        let verdicts = seen(&[1.0, 2.0]).verdicts(&expected, &needs);
        assert_eq!(verdicts[0].message, "rgb8, 640x480");
    }
}
