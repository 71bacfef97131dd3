//! The simulated robot in a process of its own: a control step, or its cameras' images, for a line of JSON. Called by `attempt`.
//! `launch/sim/attempts.py` says what the lines are.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::{Value, json};

/// Larger images than any camera's are a fault of the program at the other end.
const LARGEST_SIDE: u32 = 8192;
/// A longer answer is none.
const LONGEST_ANSWER: u64 = 1 << 20;
/// It may have to compile its scene and find out how to draw; a step takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// From the end of its input to its own.
const TO_END: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

pub struct Simulator {
    child: Child,
    /// None once it was closed, which ends the process.
    questions: Option<ChildStdin>,
    answers: BufReader<Patient>,
}

/// Its output, for which nobody waits for ever.
struct Patient(ChildStdout);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut output = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut output, Some(&until))? {
            0 => Err(ErrorKind::TimedOut.into()),
            _ => self.0.read(buffer),
        }
    }
}

/// How everything is.
#[derive(Clone, Debug, Deserialize)]
pub struct Scene {
    /// Joints as the robot has them, in its order.
    pub names: Vec<String>,
    /// Radians; grippers 0 to 1.
    pub positions: Vec<f64>,
    /// The best stage of the task up to now, 0 to 4.
    pub stage: usize,
}

/// What the cameras see.
pub struct Pictures {
    pub width: u32,
    pub height: u32,
    /// RGB, a camera after the other.
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

impl Simulator {
    pub fn start(command: &[String]) -> anyhow::Result<Self> {
        let usual = ["python3".to_owned(), "launch/sim/attempts.py".to_owned()];
        let command = if command.is_empty() { &usual[..] } else { command };
        let (program, arguments) = command.split_first().context("there is no simulator")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the simulator `{}`", command.join(" ")))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(Patient(child.stdout.take().context("the simulator has no output")?));
        Ok(Self { child, questions, answers })
    }

    /// The arms at home, and the cube where `seed` puts it.
    pub fn begin(&mut self, seed: u64) -> anyhow::Result<Scene> {
        self.ask(&json!({"begin": seed}))
    }

    /// A control step with the joints led to `positions`.
    pub fn advance(&mut self, positions: &[f64]) -> anyhow::Result<Scene> {
        self.ask(&json!({"advance": positions}))
    }

    pub fn draw(&mut self, cameras: &[&str]) -> anyhow::Result<Pictures> {
        let Size { width, height } = self.ask(&json!({"draw": cameras}))?;
        let sides = 1..=LARGEST_SIDE;
        ensure!(
            sides.contains(&width) && sides.contains(&height),
            "the simulator draws {width} x {height} pixels"
        );
        let mut bytes = vec![0; width as usize * height as usize * 3 * cameras.len()];
        self.answers.read_exact(&mut bytes).map_err(|error| self.silence(Some(error)))?;
        Ok(Pictures { width, height, bytes })
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &Value) -> anyhow::Result<T> {
        let mut answer = String::new();
        let asked = self.questions.as_mut().map(|questions| writeln!(questions, "{question}"));
        if !matches!(asked, Some(Ok(()))) {
            return Err(self.silence(None));
        }
        match (&mut self.answers).take(LONGEST_ANSWER).read_line(&mut answer) {
            Err(error) => return Err(self.silence(Some(error))),
            Ok(_) if answer.ends_with('\n') => {}
            Ok(length) if length as u64 == LONGEST_ANSWER => bail!("the simulator's answers are no lines"),
            Ok(_) => return Err(self.silence(None)),
        }
        serde_json::from_str(&answer).with_context(|| format!("the simulator answered {}", answer.trim_end()))
    }

    /// Why no answer came.
    fn silence(&mut self, error: Option<io::Error>) -> anyhow::Error {
        match error {
            Some(error) if error.kind() == ErrorKind::TimedOut => {
                anyhow!("the simulator has not answered for {} s", PATIENCE.as_secs())
            }
            Some(error) if error.kind() != ErrorKind::UnexpectedEof => {
                anyhow::Error::new(error).context("cannot read the simulator's answer")
            }
            _ => match self.end() {
                Some(status) => anyhow!("the simulator has ended ({status}); what it said stands above"),
                None => anyhow!("the simulator has closed its output, and goes on"),
            },
        }
    }

    /// Its input ends, and so does it; none if it does not heed that.
    fn end(&mut self) -> Option<ExitStatus> {
        self.questions = None;
        let until = Instant::now() + TO_END;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(POLL),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if self.end().is_none() {
            // Nothing to add if it is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
