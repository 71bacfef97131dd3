//! The CPU device with faults that a test switches on: refusals, delays, actions that are not the model's. Used by the
//! tests of the control loop.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pi0_node::control::{Wiring, assemble_on};
use pi0_node::device::cpu::CpuDevice;
use pi0_node::device::{
    Account, Device, DeviceError, DeviceOptions, ProgramId, Progress, SectionTime, Silent, StepTime,
};
use pi0_node::graph::{Graph, HostTensor, HostView, Weights};
use pi0_node::settings::Settings;
use tempfile::TempDir;

use crate::robot::{settings, write_checkpoint};

/// What the device does wrong; shared with the test.
pub struct Faults {
    /// So many runs are refused.
    pub refuse_runs: AtomicU32,
    /// Every run takes so much longer.
    pub delay_us: AtomicU64,
    /// Every act takes so much longer for each of its denoising steps.
    pub delay_per_step_us: AtomicU64,
    /// Programs run when they are waited for, as on a device that works by itself; what runs must not be written to.
    pub later: AtomicBool,
    /// How often programs that were started were waited for.
    pub waits: AtomicU32,
    /// So many runs from now on take `delay_us`; all if `u32::MAX`.
    pub delayed_runs: AtomicU32,
    /// In place of all of the model's actions, if any.
    pub action: Mutex<Option<f32>>,
    /// Called at the start of every run.
    pub on_run: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Devices opened so far.
    pub opened: AtomicU32,
    /// Acts run so far, by their denoising steps.
    pub acts: Mutex<Vec<usize>>,
}

impl Faults {
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            refuse_runs: AtomicU32::new(0),
            delay_us: AtomicU64::new(0),
            delay_per_step_us: AtomicU64::new(0),
            later: AtomicBool::new(false),
            waits: AtomicU32::new(0),
            delayed_runs: AtomicU32::new(u32::MAX),
            action: Mutex::new(None),
            on_run: Mutex::new(None),
            opened: AtomicU32::new(0),
            acts: Mutex::new(Vec::new()),
        })
    }

    /// From now on every action is this.
    pub fn act(&self, action: f32) {
        *self.action.lock().unwrap() = Some(action);
    }

    fn open(self: &Arc<Self>, settings: &Settings) -> Result<Box<dyn Device>, DeviceError> {
        self.opened.fetch_add(1, SeqCst);
        let options = DeviceOptions::cpu(1, settings.precision);
        Ok(Box::new(FaultyDevice {
            cpu: CpuDevice::new(options)?,
            faults: self.clone(),
            steps: HashMap::new(),
            started: Vec::with_capacity(8),
            times: HashMap::new(),
        }))
    }
}

/// The robot of `support/robot.rs` on a device with `faults`; actions are absolute.
pub fn robot_on(faults: &Arc<Faults>, change: impl FnOnce(&mut Settings)) -> (TempDir, Wiring) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let mut settings = settings(folder.path());
    settings.delta_actions.clear();
    change(&mut settings);
    let faults = faults.clone();
    let wiring = assemble_on(&settings, &Silent, Box::new(move |settings| faults.open(settings))).unwrap();
    (folder, wiring)
}

struct FaultyDevice {
    cpu: CpuDevice,
    faults: Arc<Faults>,
    /// Denoising steps of each act.
    steps: HashMap<String, usize>,
    /// Programs that wait to be run.
    started: Vec<ProgramId>,
    /// How long each program's last run took.
    times: HashMap<String, Duration>,
}

impl FaultyDevice {
    fn steps(&self, program: ProgramId) -> Option<usize> {
        self.steps.get(&format!("{program:?}")).copied()
    }
}

impl FaultyDevice {
    fn run_now(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        let start = Instant::now();
        let faults = &self.faults;
        if let Some(on_run) = &mut *faults.on_run.lock().unwrap() {
            on_run();
        }
        if faults.refuse_runs.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(DeviceError::Unknown("abacus".into()));
        }
        let mut delay_us = 0;
        if faults.delayed_runs.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            delay_us += faults.delay_us.load(SeqCst);
        }
        if let Some(steps) = self.steps(program) {
            faults.acts.lock().unwrap().push(steps);
            delay_us += steps as u64 * faults.delay_per_step_us.load(SeqCst);
        }
        if delay_us > 0 {
            sleep(Duration::from_micros(delay_us));
        }
        self.cpu.run(program)?;
        self.times.insert(format!("{program:?}"), start.elapsed());
        Ok(())
    }
}

impl Device for FaultyDevice {
    fn describe(&self) -> String {
        format!("faulty {}", self.cpu.describe())
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        self.cpu.account(program)
    }

    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError> {
        let program = self.cpu.compile(graph, weights, progress)?;
        let numbers =
            graph.nodes.iter().filter_map(|node| node.name.strip_prefix("steps.")?.split('.').next());
        if let Some(last) = numbers.filter_map(|number| number.parse::<usize>().ok()).max() {
            self.steps.insert(format!("{program:?}"), last + 1);
        }
        Ok(program)
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        assert!(!self.started.contains(&program), "'{input}' is written while a program runs that reads it");
        self.cpu.write(program, input, data)
    }

    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        if self.faults.later.load(SeqCst) {
            self.started.push(program);
            return Ok(());
        }
        self.run_now(program)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let started = std::mem::take(&mut self.started);
        self.faults.waits.fetch_add(u32::from(!started.is_empty()), SeqCst);
        started.into_iter().try_for_each(|program| self.run_now(program))
    }

    fn time(&self, program: ProgramId) -> Duration {
        self.times.get(&format!("{program:?}")).copied().unwrap_or_default()
    }

    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        self.cpu.profile(program)
    }

    fn sections(&mut self, program: ProgramId) -> &[SectionTime] {
        self.cpu.sections(program)
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        self.cpu.read(program, output, out)?;
        if let (Some(action), HostTensor::F32(values)) = (*self.faults.action.lock().unwrap(), out) {
            values.fill(action);
        }
        Ok(())
    }
}
