//! The one thread that Python lives on, and how work gets there. Called by `session`.
//!
//! `ttnn` keeps things per thread, and a Python that has run once cannot be started anew. So the thread is started for
//! the first session, serves one session after the other, and ends with the process; Python is never finalised. It
//! lets go of the interpreter while it waits for work.
//!
//! Handing work over and waiting for it allocates nothing.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, mem, thread};

use crate::object::Object;
use crate::python::{PYTHON, Python, RawThread};
use crate::runtime::SOURCE;
use crate::{Error, Interpreter, Options, Runtime};

/// `ttnn` compiles deep C++ templates and Python's own stack comes on top.
const STACK_BYTES: usize = 16 << 20;

/// What lives on the thread.
#[derive(Default)]
pub(crate) struct Home {
    running: Option<Running>,
    pub runtime: Option<Runtime>,
}

struct Running {
    python: &'static Python,
    executable: PathBuf,
    /// `runtime.py`, once `ttnn` was imported.
    module: Option<Object>,
}

type Job<'a> = &'a mut (dyn FnMut(&mut Home) + Send);

/// Where the thread and its only client meet.
enum Meeting {
    /// Nobody started the thread yet.
    Unborn,
    Idle,
    /// Work, as its owner lent it.
    Work(*mut (dyn FnMut(&mut Home) + Send)),
    Busy,
    /// Work is done, or panicked with this.
    Done(Option<Box<dyn Any + Send>>),
}

// SAFETY: the pointer is to work that may be sent, and its owner waits while another thread has it.
unsafe impl Send for Meeting {}

static MEETING: Mutex<Meeting> = Mutex::new(Meeting::Unborn);
static NEWS: Condvar = Condvar::new();

/// Starts the thread, if it is not there yet.
pub(crate) fn start() -> io::Result<()> {
    let mut meeting = lock();
    if matches!(*meeting, Meeting::Unborn) {
        thread::Builder::new().name("tt-metal".into()).stack_size(STACK_BYTES).spawn(serve)?;
        *meeting = Meeting::Idle;
    }
    Ok(())
}

/// Runs `job` on the thread and waits for it; if it panics, so does this. There is one caller at a time, after
/// [`start`]: the owner of the session.
pub(crate) fn run(job: Job) {
    let job: *mut (dyn FnMut(&mut Home) + Send + '_) = job;
    // SAFETY: only the lifetime changes, and this function does not return before the thread is done with the job.
    let job: *mut (dyn FnMut(&mut Home) + Send + 'static) = unsafe { mem::transmute(job) };
    let mut meeting = lock();
    *meeting = Meeting::Work(job);
    NEWS.notify_all();
    let panic = loop {
        meeting = NEWS.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        if let Meeting::Done(panic) = &mut *meeting {
            break panic.take();
        }
    };
    *meeting = Meeting::Idle;
    drop(meeting);
    if let Some(panic) = panic {
        panic::resume_unwind(panic);
    }
}

fn serve() {
    let mut home = Home::default();
    // Python's state of this thread, while the thread does not hold the interpreter.
    let mut rested: Option<*mut RawThread> = None;
    loop {
        let job = next_job();
        if let (Some(running), Some(state)) = (&home.running, rested.take()) {
            // SAFETY: the state is this thread's, from below.
            unsafe { (running.python.PyEval_RestoreThread)(state) };
        }
        // SAFETY: the job's owner waits in `run` until `Done` is set, and leaves the job alone until then.
        let result = panic::catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(&mut home) }));
        if let Some(running) = &home.running {
            // SAFETY: this thread holds the interpreter: since its start, or since above.
            rested = Some(unsafe { (running.python.PyEval_SaveThread)() });
        }
        *lock() = Meeting::Done(result.err());
        NEWS.notify_all();
    }
}

fn next_job() -> *mut (dyn FnMut(&mut Home) + Send) {
    let mut meeting = lock();
    loop {
        match mem::replace(&mut *meeting, Meeting::Busy) {
            Meeting::Work(job) => return job,
            other => *meeting = other,
        }
        meeting = NEWS.wait(meeting).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Nothing panics while it holds the lock, and each state is whole by itself.
fn lock() -> MutexGuard<'static, Meeting> {
    MEETING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Home {
    /// Opens the device, after starting Python and importing `ttnn` where that has not been done.
    pub fn open(&mut self, interpreter: &Interpreter, options: &Options) -> Result<(), Error> {
        let running = match self.running.take() {
            Some(running) => self.running.insert(running),
            None => self.running.insert(Running::start(interpreter)?),
        };
        if running.executable != interpreter.executable {
            let (running, asked) = (running.executable.clone(), interpreter.executable.clone());
            return Err(Error::OtherInterpreter { running, asked });
        }
        let python = running.python;
        let module = match running.module.take() {
            Some(module) => running.module.insert(module),
            None => running.module.insert(python.module(c"tt_metal_sys", SOURCE).map_err(|error| {
                Error::Import { path: interpreter.executable.clone(), message: error.to_string() }
            })?),
        };
        self.runtime = Some(Runtime::open(python, module, options)?);
        Ok(())
    }
}

impl Running {
    fn start(interpreter: &Interpreter) -> Result<Self, Error> {
        let python = Python::load(interpreter)?;
        // SAFETY: only this thread does this, and only while nothing runs: a Python that has been started is kept.
        unsafe { python.start(&interpreter.executable)? };
        let python = PYTHON.get_or_init(|| python);
        Ok(Self { python, executable: interpreter.executable.clone(), module: None })
    }
}
