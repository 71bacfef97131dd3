//! What fits what, said line by line before anything runs: a parameter file by itself, and with a checkpoint. Called by
//! `cli check`; `node` adds verdicts on a running graph.

mod checkpoint;
mod outputs;
mod parameters;

use std::fmt;

pub use checkpoint::checkpoint;
pub use parameters::parameters;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// The node runs, but perhaps not as it should.
    Warning,
    /// The node would refuse to start, send nothing, or move the robot wrongly.
    Error,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    /// A parameter's name, `camera base_0_rgb`, `joints`.
    pub subject: String,
    /// What is so, and if it is wrong, what to do.
    pub message: String,
}

impl Verdict {
    pub fn ok(subject: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.into(), message: message.into() }
    }

    pub fn warning(subject: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(subject, message) }
    }

    pub fn error(subject: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::ok(subject, message) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        // What has several lines stays in its column.
        let message = self.message.trim_end().replace('\n', &format!("\n{:34}", ""));
        write!(f, "{level:<9}{:<24} {message}", self.subject)
    }
}
