//! The log on `/rosout`, for `ros2 topic echo /rosout`, rqt_console and rosbags: r2r has none. Whoever logs leaves a line in
//! a bounded queue and never waits; a thread of its own publishes. Put into the log by `cli run`.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use r2r::qos::QosProfile;
use r2r::rcl_interfaces::msg::Log;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::session::start;
use super::stop::Stop;
use crate::telemetry::Repeats;

/// Lines that wait at most: what a slow network makes of a start.
const QUEUE: usize = 1000;

/// The layer that fills the queue, and the queue.
pub fn queue() -> (RosoutLayer, Lines) {
    let (sender, receiver) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (RosoutLayer { sender, lost: Arc::clone(&lost) }, Lines { receiver, lost })
}

/// Takes down what is logged.
pub struct RosoutLayer {
    sender: SyncSender<Log>,
    lost: Arc<AtomicU64>,
}

/// What was logged and not published yet.
pub struct Lines {
    receiver: Receiver<Log>,
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for RosoutLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if self.sender.try_send(line(event)).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

fn line(event: &Event<'_>) -> Log {
    let code = event.metadata();
    let mut line = Log {
        level: level(*code.level()),
        file: code.file().unwrap_or_default().to_owned(),
        // The nearest that a Rust program knows at run time.
        function: code.module_path().unwrap_or_default().to_owned(),
        line: code.line().unwrap_or_default(),
        ..Log::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line.stamp.sec = now.as_secs().try_into().unwrap_or(i32::MAX);
    line.stamp.nanosec = now.subsec_nanos();
    event.record(&mut Fields(&mut line));
    line
}

/// As the constants of `rcl_interfaces/Log`.
fn level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG | Level::TRACE => 10,
    }
}

/// The text with what else the event has. Lines of libraries that use the crate `log` have their place in such fields.
struct Fields<'a>(&'a mut Log);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0.msg.insert_str(0, &format!("{value:?}")),
            "log.target" => {}
            name => {
                let _ = write!(self.0.msg, " {name}={value:?}");
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.file" => self.0.file = value.to_owned(),
            "log.module_path" => self.0.function = value.to_owned(),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "log.line" => self.0.line = value.try_into().unwrap_or_default(),
            _ => self.record_debug(field, &value),
        }
    }
}

/// Publishes as `node` until it is stopped, then what is left. Tells also what `repeats` left out of the log.
pub fn publish(
    node: &mut r2r::Node,
    lines: Lines,
    repeats: Repeats,
    stop: &Stop,
) -> anyhow::Result<JoinHandle<()>> {
    // As rclcpp: who comes late sees what was said lately.
    let qos = QosProfile::default().keep_last(QUEUE).transient_local().lifespan(Duration::from_secs(10));
    let publisher = node.create_publisher::<Log>("/rosout", qos).context("cannot publish /rosout")?;
    let name = logger_name(&node.fully_qualified_name()?);
    let send = move |mut line: Log| {
        line.name.clone_from(&name);
        // There is nobody left to tell it.
        let _ = publisher.publish(&line);
    };
    start("rosout", stop, move |stop| {
        const PATIENCE: Duration = Duration::from_millis(50);
        const TELL_EVERY: Duration = Duration::from_secs(1);
        let mut next = Instant::now();
        while !stop.is_set() {
            if Instant::now() >= next {
                tell(&repeats, &lines.lost);
                next = Instant::now() + TELL_EVERY;
            }
            match lines.receiver.recv_timeout(PATIENCE) {
                Ok(line) => send(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop.set(),
            }
        }
        tell(&repeats, &lines.lost);
        lines.receiver.try_iter().for_each(send);
    })
}

/// Says how much was not said.
fn tell(repeats: &Repeats, lost: &AtomicU64) {
    for left_out in repeats.take_left_out() {
        tracing::warn!("{left_out}");
    }
    match lost.swap(0, Relaxed) {
        0 => {}
        lost => {
            tracing::warn!("{lost} lines of the log did not reach /rosout: its queue of {QUEUE} was full")
        }
    }
}

/// `/left/pi0_node` -> `left.pi0_node`, as in rcl.
fn logger_name(node: &str) -> String {
    node.trim_start_matches('/').replace('/', ".")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_have_level_text_and_place_and_a_full_queue_holds_nobody_up() {
        let (layer, lines) = queue();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(count = 3, "late by {} ms", 12.5);
            (0..QUEUE).for_each(|_| tracing::info!("again"));
        });
        assert_eq!(lines.lost.load(Relaxed), 1);
        let line = lines.receiver.recv().unwrap();
        assert_eq!((line.level, line.msg.as_str()), (30, "late by 12.5 ms count=3"));
        assert!(line.file.ends_with("rosout.rs") && line.line > 0, "{line:?}");
        assert_eq!(line.function, "pi0_node::node::rosout::tests");
        assert_eq!(line.level, Log::WARN as u8);
    }

    #[test]
    fn loggers_are_named_as_in_rcl() {
        assert_eq!(logger_name("/pi0_node"), "pi0_node");
        assert_eq!(logger_name("/cell/left/pi0_node"), "cell.left.pi0_node");
    }
}
