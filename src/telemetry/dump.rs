//! Latencies as files: one `.hgrm` per latency, in the percentile format of HdrHistogram that its plotters read, and one
//! JSON file with all of them. Called when the node stops and when `~/dump_latency` asks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use serde_json::json;

use super::distribution::Distribution;
use super::metrics::Metrics;

/// Writes everything that was recorded so far into a new folder in `folder`, named by the time, and gives the files.
/// Latencies without a value are left out of the `.hgrm` files.
pub fn dump(metrics: &Metrics, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    // Colons and dots make trouble in file names elsewhere.
    let folder = folder.join(time.replace([':', '.'], "-"));
    fs::create_dir_all(&folder)?;
    let mut files = Vec::new();
    let mut write = |name: &str, text: &str| -> io::Result<()> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        files.push(path);
        Ok(())
    };
    let mut latencies = Vec::new();
    for (name, distribution) in metrics.distributions() {
        if distribution.count() > 0 {
            write(&format!("{}.hgrm", file_name(&name.to_string())), &percentiles(&distribution))?;
        }
        latencies.push(json!({ "name": name.to_string(), "total": distribution.summary() }));
    }
    let snapshot = metrics.snapshot();
    let dropped = snapshot.dropped.iter().map(|(reason, count)| (reason.name().to_owned(), json!(count)));
    let missed = snapshot.missed.iter().map(|(stage, count)| (stage.name().to_owned(), json!(count)));
    let report = json!({
        "time": time,
        "uptime_s": metrics.uptime().as_secs_f64(),
        "frame_sets": snapshot.frame_sets,
        "clamped_states": snapshot.clamped_states,
        "chunks_led": snapshot.joins.led,
        "chunks_led_late": snapshot.joins.led_late,
        "chunks": snapshot.chunks,
        "dropped": serde_json::Map::from_iter(dropped),
        "missed_deadlines": serde_json::Map::from_iter(missed),
        "latencies": latencies,
    });
    write("latency.json", &format!("{report:#}\n"))?;
    Ok(files)
}

/// Sensors are named by the user, who may have put a slash into a name.
fn file_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// HdrHistogram's percentile format with values in milliseconds, as in
/// <https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>.
fn percentiles(distribution: &Distribution) -> String {
    /// As HdrHistogram's own `outputPercentileDistribution` has by default.
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let histogram = distribution.histogram();
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value_ms = step.value_iterated_to() as f64 / 1e6;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value_ms:>12.6} {quantile:>14.12} {total:>10}");
        let _ = match quantile {
            quantile if quantile < 1.0 => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            _ => writeln!(text),
        };
    }
    let summary = distribution.summary();
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]",
        summary.mean_ms,
        histogram.stdev() / 1e6
    );
    let _ = writeln!(text, "#[Max     = {:>12.6}, Total count    = {:>12}]", summary.max_ms, summary.count);
    let sub_buckets = 1 << (u64::BITS - (2 * 10_u64.pow(histogram.sigfig().into()) - 1).leading_zeros());
    let _ = writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.buckets());
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::Stage;
    use super::*;

    #[test]
    fn a_dump_has_a_file_per_latency_and_one_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new(["../top camera"]);
        for ms in 1..=100 {
            metrics.time(Stage::Act, Instant::now() - Duration::from_millis(ms));
        }
        let _ = metrics.received(&metrics.cameras[0], Instant::now(), Ok::<_, String>(()));
        let files = dump(&metrics, folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["act.hgrm", "decode____top_camera.hgrm", "latency.json"]);

        let lines = fs::read_to_string(&files[0]).unwrap();
        let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        let median = lines.iter().find(|line| line.get(1) == Some(&"0.500000000000")).unwrap();
        assert!((median[0].parse::<f64>().unwrap() - 50.0).abs() < 1.0 && median[3] == "2.00", "{median:?}");
        let last = lines.iter().rfind(|line| line.get(1) == Some(&"1.000000000000")).unwrap();
        assert_eq!(last[2..], ["100"]);

        let report: serde_json::Value = serde_json::from_slice(&fs::read(&files[2]).unwrap()).unwrap();
        let act =
            report["latencies"].as_array().unwrap().iter().find(|entry| entry["name"] == "act").unwrap();
        assert_eq!(act["total"]["count"], 100);
        assert!(report["missed_deadlines"]["act"] == 0 && report["dropped"]["device_error"] == 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(dump(&Metrics::new([]), file.path()).is_err());
    }
}
