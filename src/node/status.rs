//! The status display of `pi0_node run --status`: one screen that is redrawn, or a line a second where the output is no
//! terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use super::health::{Health, Level};
use crate::control::Chunk;
use crate::telemetry::{Snapshot, Stage};

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

/// The stages on the screen: where a cycle's time goes. The final table and `/diagnostics` have all.
const SHOWN: [Stage; 6] =
    [Stage::Write, Stage::Perceive, Stage::Act, Stage::DecodeActions, Stage::Cycle, Stage::Age];

pub struct Status {
    screen: bool,
    started: Instant,
    device: String,
    joints: Vec<String>,
    /// How the task went when it was last told in a line of its own.
    told_outcome: Option<String>,
}

impl Status {
    pub fn new(style: Style, device: &str, joints: &[String]) -> Self {
        let screen = match style {
            Style::Auto => stdout().is_terminal(),
            Style::Screen => true,
            Style::Lines => false,
        };
        let (device, joints) = (device.to_owned(), joints.to_vec());
        Self { screen, started: Instant::now(), device, joints, told_outcome: None }
    }

    /// Time from one drawing to the next; shorter ones would make rates of slow cameras jump.
    pub const INTERVAL: Duration = Duration::from_secs(1);

    pub fn draw(&mut self, health: &Health, chunk: Option<&Chunk>) {
        if self.screen {
            print(&redraw(&self.page(health, chunk)));
        } else {
            print(&self.lines(health));
        }
    }

    /// A line of rates, and one of how the task goes when that has changed.
    fn lines(&mut self, health: &Health) -> String {
        let mut lines = line(health);
        let outcome = &health.snapshot.task_outcome;
        if let Some(news) = outcome.as_ref().filter(|_| self.told_outcome != *outcome) {
            let _ = writeln!(lines, "task: {news}");
        }
        self.told_outcome.clone_from(outcome);
        lines
    }

    /// Clears the screen, for the final table to stand alone.
    pub fn finish(&self) {
        if self.screen {
            print(&redraw(""));
        }
    }

    /// At most 24 lines for three cameras and 14 joints: what a small terminal shows.
    fn page(&self, health: &Health, chunk: Option<&Chunk>) -> String {
        let snapshot = &health.snapshot;
        let mut page = format!(
            "pi0_node on {}, up {} s (Ctrl-C stops)\n",
            self.device,
            self.started.elapsed().as_secs()
        );
        for part in &health.parts {
            let level = match part.level {
                Level::Ok => "ok",
                Level::Warn => "WARN",
                Level::Error => "ERROR",
            };
            let decode = part.value("decode_p50_ms").map(|ms| format!(", decode p50 {ms} ms"));
            let decode = decode.unwrap_or_default();
            let _ = writeln!(page, "{level:<6}{:<26}{}{decode}", part.name, part.message);
        }
        let _ = writeln!(
            page,
            "{:<22} {:>8} {:>10} {:>10} {:>10} {:>10}",
            "latency (ms)", "count", "p50", "p90", "p99", "max"
        );
        for stage in SHOWN {
            let _ = writeln!(page, "{:<22} {}", stage.name(), snapshot.stage(stage));
        }
        let _ = writeln!(page, "{}", totals(snapshot));
        if let Some(chunk) = chunk {
            page += &self.chunk(chunk);
        }
        if let Some(outcome) = &snapshot.task_outcome {
            let _ = writeln!(page, "task: {outcome}");
        }
        if let Some(error) = &snapshot.last_error {
            let _ = writeln!(page, "last error: {error}");
        }
        page
    }

    /// Where the last chunk leads: each joint at its first and its last point.
    fn chunk(&self, chunk: &Chunk) -> String {
        const COLUMNS: usize = 2;
        let mut text = format!(
            "chunk {}: {} points at {} Hz after {}, first and last:\n",
            chunk.sequence,
            chunk.points().count(),
            chunk.control_hz,
            chunk.observation
        );
        let (Some((_, first)), Some((_, last))) = (chunk.points().next(), chunk.points().last()) else {
            return text;
        };
        let ends = first.iter().zip(last);
        let joints: Vec<String> = self
            .joints
            .iter()
            .zip(ends)
            .map(|(name, (first, last))| format!("{name:<20} {first:>7.3} {last:>7.3}"))
            .collect();
        for row in joints.chunks(COLUMNS) {
            let _ = writeln!(text, "{}", row.join("   "));
        }
        text
    }
}

fn totals(snapshot: &Snapshot) -> String {
    let mut totals = format!("{} frame sets, {} chunks", snapshot.frame_sets, snapshot.chunks);
    for (reason, count) in snapshot.dropped.iter().filter(|(_, count)| *count > 0) {
        let _ = write!(totals, ", {count} dropped ({})", reason.name());
    }
    totals
}

fn line(health: &Health) -> String {
    let cameras: Vec<_> = health.rates.cameras_hz.iter().map(|rate| format!("{rate:.1}")).collect();
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

/// From the top left corner; what stood there before is erased line by line, which does not flicker. Lines too long for
/// the terminal are cut, not wrapped.
fn redraw(page: &str) -> String {
    format!("\x1b[?7l\x1b[H{}\x1b[J\x1b[?7h", page.replace('\n', "\x1b[K\n"))
}

/// Output that nobody reads any more (a closed pipe) is no reason to stop a robot.
pub fn print(text: &str) {
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
            rates: Rates { cameras_hz: vec![29.97], ..Rates::default() },
            snapshot: metrics.snapshot(),
            stopped: None,
        }
    }

    fn chunk(joints: usize) -> Chunk {
        let points = (0..3).flat_map(|point| (0..joints).map(move |joint| (point, joint)));
        let mut chunk = Chunk::new(3, joints, 50.0);
        chunk.observation = Stamp(1_500_000_000);
        chunk.sequence = 7;
        chunk.actions = points.map(|(point, joint)| joint as f64 + 0.1 * f64::from(point)).collect();
        chunk
    }

    #[test]
    fn a_line_has_rates_counts_latency_and_errors() {
        let line = line(&health());
        assert!(line.starts_with("cameras 30.0 Hz, joints 0.0 Hz"), "{line}");
        assert!(line.contains("(1 in all)") && line.contains("cycle p50 0.0 ms"), "{line}");
        assert!(line.ends_with("; camera base_0_rgb: silent for 2.5 s\n"), "{line}");
    }

    #[test]
    fn the_task_has_a_line_of_its_own_when_it_has_changed() {
        let mut status = Status::new(Style::Lines, "cpu", &[]);
        let mut health = health();
        let told = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert!(told(status.lines(&health)).is_empty());
        health.snapshot.task_outcome = Some("done 1 of 1".into());
        assert_eq!(told(status.lines(&health)), ["task: done 1 of 1"]);
        assert!(told(status.lines(&health)).is_empty());
        health.snapshot.task_outcome = Some("done 1 of 2".into());
        assert_eq!(told(status.lines(&health)), ["task: done 1 of 2"]);
    }

    #[test]
    fn the_screen_shows_health_tables_and_the_last_chunk() {
        let joints = ["waist".to_owned(), "elbow".to_owned()];
        let status = Status::new(Style::Screen, "cpu (2 threads)", &joints);
        let chunk = chunk(2);
        let page = status.page(&health(), Some(&chunk));
        assert!(page.contains("pi0_node on cpu (2 threads)"), "{page}");
        assert!(page.contains("ERROR camera base_0_rgb         silent for 2.5 s"), "{page}");
        assert!(page.contains("0 frame sets, 1 chunks\n"), "{page}");
        assert!(page.contains("chunk 7: 3 points at 50 Hz after 1.500000000, first and last:"), "{page}");
        assert!(
            page.contains("waist                  0.000   0.200   elbow                  1.000   1.200"),
            "{page}"
        );
    }

    #[test]
    fn the_screen_of_three_cameras_and_fourteen_joints_fits_a_small_terminal() {
        let joints: Vec<String> = (0..14).map(|joint| format!("right_wrist_rotate_{joint}")).collect();
        let metrics = Metrics::new(["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
        metrics.report("base_0_rgb", &"bad image");
        let mut health = health();
        health.snapshot = metrics.snapshot();
        // Three cameras, the joints, the control loop.
        health.parts = vec![health.parts[0].clone(); 5];
        let chunk = chunk(14);
        let page = Status::new(Style::Screen, "cpu", &joints).page(&health, Some(&chunk));
        assert!(page.lines().count() <= 24, "{page}");
    }

    #[test]
    fn redrawing_erases_what_is_left_of_each_line_and_below() {
        assert_eq!(redraw("a\nb\n"), "\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
    }
}
