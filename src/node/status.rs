//! The status display of `pi0_node run --status`: one screen that is redrawn, or a line a second where the output is no
//! terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use super::health::{Health, Level};
use crate::control::Chunk;
use crate::telemetry::Stage;

/// How the status is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// A screen on a terminal, lines elsewhere.
    Auto,
    /// One screen, redrawn in place.
    Screen,
    /// A line a second.
    Lines,
}

pub struct Status {
    screen: bool,
    started: Instant,
    device: String,
    joints: Vec<String>,
}

impl Status {
    pub fn new(style: Style, device: &str, joints: &[String]) -> Self {
        let screen = match style {
            Style::Auto => stdout().is_terminal(),
            Style::Screen => true,
            Style::Lines => false,
        };
        Self {
            screen,
            started: Instant::now(),
            device: device.to_owned(),
            joints: joints.to_vec(),
        }
    }

    /// Time from one drawing to the next.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(if self.screen { 250 } else { 1000 })
    }

    /// Shows the health; `rates` of it are smoother than those of so short an interval.
    pub fn draw(&self, health: &Health, chunk: Option<&Chunk>) {
        if self.screen {
            print(&redraw(&self.page(health, chunk)));
        } else {
            print(&line(health));
        }
    }

    /// Clears the screen, for the final table to stand alone.
    pub fn finish(&self) {
        if self.screen {
            print(&redraw(""));
        }
    }

    fn page(&self, health: &Health, chunk: Option<&Chunk>) -> String {
        let mut page = format!(
            "pi0_node on {}, up {} s (Ctrl-C stops)\n\n",
            self.device,
            self.started.elapsed().as_secs()
        );
        for part in &health.parts {
            let level = match part.level {
                Level::Ok => "ok",
                Level::Warn => "WARN",
                Level::Error => "ERROR",
            };
            let _ = writeln!(page, "{level:<6}{:<26}{}", part.name, part.message);
        }
        let _ = write!(page, "\n{}", health.snapshot);
        if let Some(error) = &health.snapshot.last_error {
            let _ = writeln!(page, "\nlast error: {error}");
        }
        if let Some(chunk) = chunk {
            page += &self.chunk(chunk);
        }
        page
    }

    /// Where the last chunk leads: each joint at its first, middle and last point.
    fn chunk(&self, chunk: &Chunk) -> String {
        let mut text = format!(
            "\nlast chunk: number {}, observation {}, {} points at {} Hz\n",
            chunk.sequence, chunk.observation, chunk.horizon, chunk.control_hz
        );
        let points: Vec<&[f64]> = chunk.points().collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return text;
        };
        let middle = points[points.len() / 2];
        let _ = writeln!(
            text,
            "{:<30} {:>10} {:>10} {:>10}",
            "joint", "first", "middle", "last"
        );
        let columns = first.iter().zip(middle).zip(*last);
        for (name, ((first, middle), last)) in self.joints.iter().zip(columns) {
            let _ = writeln!(text, "{name:<30} {first:>10.4} {middle:>10.4} {last:>10.4}");
        }
        text
    }
}

fn line(health: &Health) -> String {
    let cameras: Vec<_> = health
        .rates
        .cameras_hz
        .iter()
        .map(|rate| format!("{rate:.1}"))
        .collect();
    let dropped: u64 = health.snapshot.dropped.iter().map(|(_, count)| count).sum();
    let cycle = health.snapshot.stage(Stage::Cycle);
    let mut line = format!(
        "cameras {} Hz, joints {:.1} Hz, frame sets {:.1} Hz, chunks {:.1} Hz ({} in all), dropped {dropped}, cycle p50 \
         {:.1} ms p99 {:.1} ms",
        cameras.join(" "),
        health.rates.joints_hz,
        health.rates.frame_sets_hz,
        health.rates.chunks_hz,
        health.snapshot.chunks,
        cycle.p50_ms,
        cycle.p99_ms
    );
    for part in health.parts.iter().filter(|part| part.level == Level::Error) {
        let _ = write!(line, "; {}: {}", part.name, part.message);
    }
    line.push('\n');
    line
}

/// From the top left corner; what stood there before is erased line by line, which does not flicker.
fn redraw(page: &str) -> String {
    format!("\x1b[H{}\x1b[J", page.replace('\n', "\x1b[K\n"))
}

/// A status that nobody reads any more (a closed pipe) is no reason to stop a robot.
fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::health::{Part, Rates};
    use crate::observe::messages::Stamp;
    use crate::telemetry::Metrics;

    fn health() -> Health {
        let metrics = Metrics::new(["base_0_rgb"]);
        metrics.chunks.add_one();
        Health {
            parts: vec![Part {
                name: "camera base_0_rgb".into(),
                level: Level::Error,
                message: "silent for 2.5 s".into(),
                values: Vec::new(),
            }],
            rates: Rates {
                cameras_hz: vec![29.97],
                ..Rates::default()
            },
            snapshot: metrics.snapshot(),
        }
    }

    #[test]
    fn a_line_has_rates_counts_latency_and_errors() {
        let line = line(&health());
        assert!(line.starts_with("cameras 30.0 Hz, joints 0.0 Hz"), "{line}");
        assert!(
            line.contains("(1 in all)") && line.contains("cycle p50 0.0 ms"),
            "{line}"
        );
        assert!(
            line.ends_with("; camera base_0_rgb: silent for 2.5 s\n"),
            "{line}"
        );
    }

    #[test]
    fn the_screen_shows_health_tables_and_the_last_chunk() {
        let joints = ["waist".to_owned(), "elbow".to_owned()];
        let status = Status::new(Style::Screen, "cpu (2 threads)", &joints);
        let chunk = Chunk {
            observation: Stamp(1_500_000_000),
            joint_stamp: Stamp(0),
            sequence: 7,
            horizon: 3,
            joints: 2,
            actions: vec![0.0, 1.0, 0.1, 1.1, 0.2, 1.2],
            control_hz: 50.0,
        };
        let page = status.page(&health(), Some(&chunk));
        assert!(page.contains("pi0_node on cpu (2 threads)"), "{page}");
        assert!(
            page.contains("ERROR camera base_0_rgb         silent for 2.5 s"),
            "{page}"
        );
        assert!(page.contains("chunks out"), "{page}");
        assert!(
            page.contains("number 7, observation 1.500000000, 3 points at 50 Hz"),
            "{page}"
        );
        let elbow = page.lines().find(|line| line.starts_with("elbow")).unwrap();
        assert_eq!(
            elbow.split_whitespace().collect::<Vec<_>>(),
            ["elbow", "1.0000", "1.1000", "1.2000"]
        );
    }

    #[test]
    fn redrawing_erases_what_is_left_of_each_line_and_below() {
        assert_eq!(redraw("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
