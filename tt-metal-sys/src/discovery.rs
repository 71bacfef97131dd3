//! Which Python to use, and whether it has what it takes. Called when a session is opened.
//!
//! The interpreter is the one that [`Options`] name, else that of `PI0_TTNN_PYTHON`, else that of the active virtual
//! environment, else `python3`. There is no search beyond that: the first that is named is asked, by running it, and
//! what it lacks is an error.

use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::{Error, Options, TTNN_VERSION};

/// An interpreter takes a quarter of a second to answer; cold disks and slow boards more.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// A Python interpreter that has the right `ttnn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its own name for itself; in a virtual environment, the one in there.
    pub executable: PathBuf,
    /// Where its shared library may lie, likeliest first.
    pub libraries: Vec<PathBuf>,
}

/// What `probe.py` prints.
#[derive(Deserialize)]
struct Answer {
    executable: PathBuf,
    major: u32,
    minor: u32,
    shared: bool,
    library: Option<String>,
    folders: Vec<PathBuf>,
    platform: Option<String>,
    ttnn: Option<String>,
}

impl Interpreter {
    /// Asks the interpreter that `options` and the environment name. It runs for a moment, in a process of its own.
    pub fn find(options: &Options) -> Result<Self, Error> {
        let path = named(options.python.as_deref(), |variable| env::var_os(variable));
        let answer = ask(&path)?;
        if !matches!((answer.major, answer.minor), (3, 10 | 12)) {
            return Err(Error::PythonVersion { path, major: answer.major, minor: answer.minor });
        }
        let Some(library) = answer.library.filter(|_| answer.shared) else {
            return Err(Error::StaticPython { path });
        };
        match answer.ttnn {
            None => return Err(Error::NoTtnn { path }),
            Some(found) if found != TTNN_VERSION => return Err(Error::TtnnVersion { path, found }),
            Some(_) => {}
        }
        let mut libraries = Vec::new();
        for folder in answer.folders {
            // Debian and Ubuntu name the folder above that of the platform.
            let platform = answer.platform.iter().map(|platform| folder.join(platform));
            for path in platform.chain([folder.clone()]).map(|folder| folder.join(&library)) {
                if !libraries.contains(&path) {
                    libraries.push(path);
                }
            }
        }
        Ok(Self { executable: answer.executable, libraries })
    }
}

/// The interpreter that is named first. An empty variable names none.
fn named(option: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    option
        .map(Path::to_path_buf)
        .or_else(|| variable("PI0_TTNN_PYTHON"))
        .or_else(|| variable("VIRTUAL_ENV").map(|folder| folder.join("bin/python")))
        .unwrap_or_else(|| "python3".into())
}

fn ask(path: &Path) -> Result<Answer, Error> {
    let fail = |reason| Error::NoInterpreter { path: path.to_path_buf(), reason };
    let mut command = Command::new(path);
    command.arg("-c").arg(include_str!("probe.py"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    let output = child.stdout.take().map(collect);
    let errors = child.stderr.take().map(collect);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| fail(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() < end => thread::sleep(PAUSE),
            None => {
                // Nothing more can be done about a process that cannot be killed.
                let _ = child.kill();
                let _ = child.wait();
                return Err(fail(format!("it did not answer within {} s", PATIENCE.as_secs())));
            }
        }
    };
    let [output, errors] = [output, errors]
        .map(|text| text.and_then(|text| text.recv_timeout(PATIENCE).ok()).unwrap_or_default());
    if !status.success() {
        return Err(fail(format!("it failed ({status}): {}", errors.trim())));
    }
    // Whatever the environment's start-up files print comes before.
    let answer = output.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(answer).map_err(|error| fail(format!("it answered {answer:?} ({error})")))
}

/// All that a process writes. Read beside it, so that it never waits for us.
fn collect(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_named_counts() {
        let all = |name: &str| Some(if name == "VIRTUAL_ENV" { "/venv" } else { "/variable/python" }.into());
        let venv = |name: &str| (name == "VIRTUAL_ENV").then(|| "/venv".into());
        let empty = |_: &str| Some(OsString::new());
        assert_eq!(named(Some(Path::new("/option/python")), all), Path::new("/option/python"));
        assert_eq!(named(None, all), Path::new("/variable/python"));
        assert_eq!(named(None, venv), Path::new("/venv/bin/python"));
        assert_eq!(named(None, empty), Path::new("python3"));
    }
}
