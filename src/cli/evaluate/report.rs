//! What came of the attempts: a table, JSON, and a plot. Called by `evaluate`.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::attempt::{Attempted, DONE};
use super::variant::Variant;
use crate::files;

/// Of the simulator's stages; the first is none.
const STAGES: [&str; DONE] = ["touched", "lifted", "offered", "transferred"];

pub struct Report {
    config: PathBuf,
    checkpoint: PathBuf,
    attempts: u64,
    seed: u64,
    rows: Vec<Row>,
}

/// One variant and its attempts.
pub struct Row {
    variant: Variant,
    results: Vec<Attempted>,
}

impl Row {
    /// The share of attempts that did the task.
    pub fn rate(&self) -> f64 {
        self.reached(DONE) as f64 / self.results.len().max(1) as f64
    }

    /// How many came at least to a stage.
    fn reached(&self, stage: usize) -> usize {
        self.results.iter().filter(|result| result.stage >= stage).count()
    }

    /// Wilson's interval of the rate, at 95 %.
    fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.96;
        let (n, p) = (self.results.len().max(1) as f64, self.rate());
        let middle = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
    }

    /// The middle one of the times to success, s.
    fn median_s(&self) -> Option<f64> {
        let mut times: Vec<f64> = self.results.iter().filter_map(|result| result.done_s).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }

    fn mean(&self, of: impl Fn(&Attempted) -> f64) -> f64 {
        self.results.iter().map(of).sum::<f64>() / self.results.len().max(1) as f64
    }

    fn largest_jump(&self) -> f64 {
        self.results.iter().map(|result| result.jump).fold(0.0, f64::max)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        write!(
            f,
            "{}: {} of {} ({:.0} %, 95 %: {:.0} to {:.0} %)",
            self.variant,
            self.reached(DONE),
            self.results.len(),
            100.0 * self.rate(),
            100.0 * low,
            100.0 * high
        )
    }
}

impl Report {
    pub fn new(config: &Path, checkpoint: &Path, attempts: u64, seed: u64) -> Self {
        Self { config: config.into(), checkpoint: checkpoint.into(), attempts, seed, rows: Vec::new() }
    }

    pub fn add(&mut self, variant: Variant, results: Vec<Attempted>) -> &Row {
        self.rows.push(Row { variant, results });
        &self.rows[self.rows.len() - 1]
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            latency_ms: u64,
            join: &'a Option<String>,
            steps: Option<u32>,
            dtype: Option<String>,
            rate: f64,
            interval: (f64, f64),
            attempts: &'a [Attempted],
        }
        let lines = self.rows.iter().map(|row| Line {
            latency_ms: row.variant.latency_ms,
            join: &row.variant.join,
            steps: row.variant.steps,
            dtype: row.variant.dtype.map(|dtype| dtype.to_string()),
            rate: row.rate(),
            interval: row.interval(),
            attempts: &row.results,
        });
        let lines: Vec<Line> = lines.collect();
        let all = json!({
            "made_by": concat!("pi0_node ", env!("CARGO_PKG_VERSION")),
            "checkpoint": self.checkpoint,
            "config": self.config,
            "stages": STAGES,
            "variants": lines,
        });
        let text = serde_json::to_string_pretty(&all)? + "\n";
        files::write(path, &text)
    }

    /// Success over latency, a line for each join.
    pub fn write_plot(&self, path: &Path) -> anyhow::Result<()> {
        files::write(path, &self.plot()?)
    }

    fn plot(&self) -> Result<String, fmt::Error> {
        const COLOURS: [&str; 5] = ["#c0392b", "#e08e0b", "#1f6fb2", "#2e8b57", "#7d3c98"];
        const LEFT: f64 = 60.0;
        const TOP: f64 = 40.0;
        const WIDTH: f64 = 560.0;
        const HEIGHT: f64 = 240.0;
        // Steps and dtypes beside the usual ones are not a matter of latency.
        let usual = self.rows.first().map(|row| (row.variant.steps, row.variant.dtype));
        let shown = || self.rows.iter().filter(|row| Some((row.variant.steps, row.variant.dtype)) == usual);
        let mut joins: Vec<&Option<String>> = Vec::new();
        for row in shown() {
            if !joins.contains(&&row.variant.join) {
                joins.push(&row.variant.join);
            }
        }
        let most = shown().map(|row| row.variant.latency_ms).max().unwrap_or(0).max(1) as f64;
        let x = |latency_ms: u64| LEFT + WIDTH * latency_ms as f64 / most;
        let y = |rate: f64| TOP + HEIGHT * (1.0 - rate);
        let mut svg = String::new();
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>",
            LEFT + WIDTH + 30.0,
            TOP + HEIGHT + 45.0
        )?;
        for percent in [0, 25, 50, 75, 100] {
            let at = y(f64::from(percent) / 100.0);
            writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#dddddd\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{percent} %</text>",
                LEFT + WIDTH,
                LEFT - 8.0,
                at + 4.0
            )?;
        }
        for (index, (join, colour)) in joins.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let mut rows: Vec<&Row> = shown().filter(|row| row.variant.join == **join).collect();
            rows.sort_by_key(|row| row.variant.latency_ms);
            // Side by side, so that intervals can be told apart.
            let aside = 4.0 * index as f64;
            let points = rows
                .iter()
                .map(|row| format!("{:.1},{:.1}", x(row.variant.latency_ms) + aside, y(row.rate())));
            let points: Vec<String> = points.collect();
            writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            )?;
            for row in rows {
                let (at, (low, high)) = (x(row.variant.latency_ms) + aside, row.interval());
                writeln!(
                    svg,
                    "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\
                     <line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                     <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{} ms</text>",
                    y(row.rate()),
                    y(low),
                    y(high),
                    TOP + HEIGHT + 20.0,
                    row.variant.latency_ms
                )?;
            }
            let name = join.as_deref().unwrap_or("as set");
            writeln!(
                svg,
                "<text x=\"{}\" y=\"22\" fill=\"{colour}\">{name}</text>",
                LEFT + 110.0 * index as f64
            )?;
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

/// With so many decimals, or with a power of ten where that would fill its column of ten.
fn number(value: f64, decimals: usize) -> String {
    const LONGEST: usize = 9;
    let text = format!("{value:.decimals$}");
    // What rounds to nothing has no sign.
    let is_nothing = text.trim_matches(['-', '0', '.']).is_empty();
    match text.strip_prefix('-').filter(|_| is_nothing) {
        Some(unsigned) => unsigned.to_owned(),
        None if text.len() > LONGEST => format!("{value:.2e}"),
        None => text,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {}; {} attempts each, cubes of the seeds from {}\n",
            self.checkpoint.display(),
            self.config.display(),
            self.attempts,
            self.seed
        )?;
        write!(f, "{:<34}", "")?;
        STAGES.iter().try_for_each(|stage| write!(f, "{stage:>12}"))?;
        writeln!(f, "{:>16}{:>8}{:>10}{:>10}{:>10}", "95 %", "time s", "jump rad", "jerk", "at joins")?;
        for row in &self.rows {
            write!(f, "{:<34}", row.variant.to_string())?;
            (1..=DONE).try_for_each(|stage| write!(f, "{:>12}", row.reached(stage)))?;
            let (low, high) = row.interval();
            let interval = format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high);
            let median = row.median_s().map_or("-".into(), |s| format!("{s:.1}"));
            writeln!(
                f,
                "{interval:>16}{median:>8}{:>10}{:>10}{:>10}",
                number(row.largest_jump(), 4),
                number(row.mean(|result| result.jerk), 0),
                number(row.mean(|result| result.join_jerk), 0)
            )?;
        }
        writeln!(
            f,
            "\ntime: the median to success; jump: the largest of an arm's joint where a chunk follows another; jerk: rad/s^3, \
             root mean square at the robot's 50 Hz, mean of all attempts"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stages: &[usize]) -> Row {
        let variant = Variant { latency_ms: 50, join: Some("blend".into()), steps: None, dtype: None };
        let results = stages.iter().enumerate().map(|(seed, &stage)| Attempted {
            seed: seed as u64,
            stage,
            done_s: (stage == DONE).then_some(6.0 + seed as f64),
            chunks: 1,
            dropped: 0,
            jump: 0.01 * seed as f64,
            jerk: 1.0,
            join_jerk: 2.0,
        });
        Row { variant, results: results.collect() }
    }

    #[test]
    fn rates_have_their_interval_and_stages_are_reached_one_after_the_other() {
        let row = row(&[4, 4, 1, 4, 0]);
        assert_eq!((1..=DONE).map(|stage| row.reached(stage)).collect::<Vec<_>>(), [4, 3, 3, 3]);
        // Wilson, 3 of 5: 0.231 to 0.882.
        let (low, high) = row.interval();
        assert!((low - 0.2307).abs() < 1e-3 && (high - 0.8824).abs() < 1e-3, "{low} {high}");
        assert_eq!((row.median_s(), row.largest_jump()), (Some(7.0), 0.04));
        assert_eq!(row.to_string(), "50 ms, blend: 3 of 5 (60 %, 95 %: 23 to 88 %)");
    }

    #[test]
    fn numbers_of_any_size_keep_their_columns_apart() {
        for (value, decimals, expected) in [
            (0.01234, 4, "0.0123"),
            (1234.5678, 4, "1234.5678"),
            (1e9, 4, "1.00e9"),
            (-1.5e300, 0, "-1.50e300"),
            (123_456_789.0, 0, "123456789"),
            (-0.0, 0, "0"),
            (-0.00001, 4, "0.0000"),
            (-0.5, 1, "-0.5"),
            (f64::INFINITY, 0, "inf"),
            (f64::NAN, 4, "NaN"),
        ] {
            assert_eq!(number(value, decimals), expected);
        }
        let mut wild = row(&[4, 0]);
        for result in &mut wild.results {
            (result.jump, result.jerk, result.join_jerk) = (4.2e12, 9.9e17, f64::MAX);
        }
        let mut report = Report::new(Path::new("config"), Path::new("checkpoint"), 2, 0);
        report.add(row(&[]).variant, row(&[]).results);
        report.add(wild.variant, wild.results);
        let table = report.to_string();
        let line = |number: usize| table.lines().nth(number).unwrap().split_whitespace().rev().take(3);
        assert!(line(3).eq(["0", "0", "0.0000"]), "{table}");
        assert!(line(4).eq(["inf", "9.90e17", "4.20e12"]), "{table}");
    }

    #[test]
    fn the_plot_has_a_line_for_each_join() {
        let mut report = Report::new(Path::new("config"), Path::new("checkpoint"), 5, 0);
        report.add(row(&[4, 4]).variant, row(&[4, 4]).results);
        let other = Variant { join: Some("guided".into()), ..row(&[]).variant };
        report.add(other, row(&[0, 4]).results);
        let plot = report.plot().unwrap();
        assert_eq!(plot.matches("<polyline").count(), 2);
        assert!(plot.contains(">blend</text>") && plot.contains(">guided</text>"));
    }
}
