//! How a camera is, or the joints: whether messages come, can be used and have stamps of the node's clock. Called by `health`.

use std::time::Duration;

use super::graph::{Expected, Publishers};
use super::health::{Level, Part, latency};
use crate::telemetry::{SensorSnapshot, Stamps};

/// One stream of messages.
pub(super) struct Sensor<'a> {
    /// One topic or several.
    pub expected: &'a [Expected],
    pub before: &'a SensorSnapshot,
    pub now: &'a SensorSnapshot,
    pub rate_hz: f64,
    pub timeout_ms: f64,
    /// What is wrong although messages come.
    pub trouble: Option<String>,
}

impl Sensor<'_> {
    pub fn health(&self, uptime: Duration, publishers: &Publishers, last_error: Option<&str>) -> Part {
        let part = self.expected.first().map(|expected| expected.part.clone()).unwrap_or_default();
        let topics: Vec<&str> = self.expected.iter().map(|expected| expected.topic.as_str()).collect();
        let topic = topics.join(", ");
        let (level, message) = match self.now.age_ms.unwrap_or(f64::INFINITY) {
            age_ms if age_ms <= self.timeout_ms => match self.refusals(last_error) {
                Some(refusals) => (Level::Warn, refusals),
                None => match &self.trouble {
                    Some(trouble) => (Level::Error, format!("{:.1} Hz; {trouble}", self.rate_hz)),
                    None => (Level::Ok, format!("{:.1} Hz", self.rate_hz)),
                },
            },
            age_ms => match self.refusals(last_error) {
                Some(refusals) => (Level::Error, refusals),
                None if age_ms.is_finite() => (Level::Error, format!("silent for {:.1} s", age_ms / 1e3)),
                None if uptime.as_secs_f64() * 1e3 <= self.timeout_ms => {
                    (Level::Warn, format!("waiting for {topic}"))
                }
                None => match &self.trouble {
                    Some(trouble) => (Level::Error, trouble.clone()),
                    None => {
                        let explain =
                            |expected: &Expected| publishers.explain(&expected.topic, expected.type_name);
                        let why: Vec<String> = self.expected.iter().map(explain).collect();
                        (Level::Error, format!("no message has come: {}", why.join("; ")))
                    }
                },
            },
        };
        let mut values = vec![
            ("topic".to_owned(), topic),
            ("rate_hz".to_owned(), format!("{:.2}", self.rate_hz)),
            ("received".to_owned(), self.now.received.to_string()),
            ("refused".to_owned(), self.now.refused.to_string()),
        ];
        if let Some(age_ms) = self.now.age_ms {
            values.push(("age_ms".to_owned(), format!("{age_ms:.1}")));
        }
        match self.now.stamps {
            Stamps::Unknown => {}
            Stamps::Zero => values.push(("stamps".to_owned(), "0".to_owned())),
            Stamps::LagMs(lag_ms) => values.push(("stamp_lag_ms".to_owned(), format!("{lag_ms:.1}"))),
        }
        values.extend(latency("decode", &self.now.decode));
        Part { name: part, level, message, values }
    }

    /// Messages refused since the last look, or ever when none was good; and why if that is still known: there is one
    /// last error for all parts.
    fn refusals(&self, last_error: Option<&str>) -> Option<String> {
        let before = if self.now.received == 0 { 0 } else { self.before.refused };
        let count = self.now.refused - before;
        let why = last_error.filter(|error| error.starts_with(&format!("{}: ", self.now.name)));
        let why = why.map(|error| format!("; {error}")).unwrap_or_default();
        (count > 0).then(|| format!("{count} messages were refused{why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::camera_stamp_trouble;
    use crate::settings::Settings;
    use crate::telemetry::LatencySummary;

    const TIMEOUT_MS: f64 = 500.0;

    fn sensor(received: u64, refused: u64, age_ms: Option<f64>) -> SensorSnapshot {
        SensorSnapshot {
            name: "base_0_rgb".into(),
            received,
            refused,
            age_ms,
            stamps: Stamps::LagMs(3.0),
            decode: LatencySummary::default(),
        }
    }

    fn health(now: &SensorSnapshot, uptime_ms: u64) -> (Level, String) {
        let sensor = Sensor {
            expected: &[Expected {
                part: "camera base_0_rgb".into(),
                topic: "/top/image_raw".into(),
                type_name: "sensor_msgs/msg/Image",
            }],
            before: &sensor(0, 0, None),
            now,
            rate_hz: 30.0,
            timeout_ms: TIMEOUT_MS,
            trouble: camera_stamp_trouble(
                now,
                &Settings::of_one_joint().cameras[0],
                &Settings::of_one_joint(),
            ),
        };
        let uptime = Duration::from_millis(uptime_ms);
        let part = sensor.health(uptime, &Publishers::default(), Some("base_0_rgb: short buffer"));
        (part.level, part.message)
    }

    #[test]
    fn a_camera_that_never_comes_is_an_error_that_says_why() {
        let silent = sensor(0, 0, None);
        assert_eq!(health(&silent, 100), (Level::Warn, "waiting for /top/image_raw".into()));
        let expected = "no message has come: nobody publishes /top/image_raw";
        assert_eq!(health(&silent, 600), (Level::Error, expected.into()));
    }

    #[test]
    fn a_camera_is_ok_or_silent() {
        assert_eq!(health(&sensor(9, 0, Some(20.0)), 600), (Level::Ok, "30.0 Hz".into()));
        let silent = (Level::Error, "silent for 2.5 s".into());
        assert_eq!(health(&sensor(9, 0, Some(2500.0)), 9000), silent);
    }

    #[test]
    fn refused_messages_are_told_with_the_reason_whether_or_not_good_ones_come_too() {
        let refused = "2 messages were refused; base_0_rgb: short buffer";
        assert_eq!(health(&sensor(9, 2, Some(20.0)), 600), (Level::Warn, refused.into()));
        assert_eq!(health(&sensor(9, 2, Some(2500.0)), 9000), (Level::Error, refused.into()));
        assert_eq!(health(&sensor(0, 2, None), 9000), (Level::Error, refused.into()));
    }

    #[test]
    fn stamps_of_0_and_of_another_clock_are_named_with_the_setting_that_helps() {
        let with = |stamps| health(&SensorSnapshot { stamps, ..sensor(9, 0, Some(20.0)) }, 600);
        assert_eq!(with(Stamps::LagMs(40.0)).0, Level::Ok);
        let zero = "30.0 Hz; its stamps are 0: let the driver stamp its messages, or set camera_stamps to arrival for it";
        assert_eq!(with(Stamps::Zero), (Level::Error, zero.into()));
        for (lag_ms, said) in [(37_000.0, "37.0 s behind the clock"), (-2500.0, "2500 ms ahead of the clock")]
        {
            let (level, message) = with(Stamps::LagMs(lag_ms));
            assert!(
                level == Level::Error && message.contains(said) && message.contains("camera_stamps"),
                "{message}"
            );
        }
    }
}
