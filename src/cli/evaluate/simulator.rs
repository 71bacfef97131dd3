//! The simulated robot in a process of its own: a control step, or its cameras' images, for a line of JSON. Called by `attempt`.
//! `launch/sim/attempts.py` says what the lines are.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// Larger images than any camera's are a fault of the program at the other end.
const LARGEST_SIDE: u32 = 8192;

pub struct Simulator {
    child: Child,
    /// None once it was closed, which ends the process.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
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
        let answers = BufReader::new(child.stdout.take().context("the simulator has no output")?);
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
        self.answers.read_exact(&mut bytes).context("the simulator's images end too early")?;
        Ok(Pictures { width, height, bytes })
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &Value) -> anyhow::Result<T> {
        let mut answer = String::new();
        let asked = self.questions.as_mut().map(|questions| writeln!(questions, "{question}"));
        if !matches!(asked, Some(Ok(()))) || self.answers.read_line(&mut answer)? == 0 {
            bail!("the simulator has ended; what it said stands above");
        }
        serde_json::from_str(&answer).with_context(|| format!("the simulator answered {}", answer.trim_end()))
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.questions = None;
        let _ = self.child.wait();
    }
}
