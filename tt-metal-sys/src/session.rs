//! A session with one device: opened, worked with, closed. Called by whoever uses the crate.

use std::cell::Cell;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::interpreter::{self, Home};
use crate::{Error, Interpreter, Runtime};

/// Which Python to use and how to open the device.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Python interpreter of the environment that has `ttnn`; if none is given, that of `PI0_TTNN_PYTHON`, of
    /// the active virtual environment (`VIRTUAL_ENV`), or `python3`, whichever comes first.
    pub python: Option<PathBuf>,
    /// Number of the device, as tt-metal counts.
    pub device: u32,
    /// Command queues, 1 or 2. With two, inputs are written while a trace is running.
    pub command_queues: u8,
    /// DRAM for traces, over all banks.
    pub trace_region_bytes: u64,
    /// L1 for halos and semaphores, in each core. Few operations need any.
    pub l1_small_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { python: None, device: 0, command_queues: 2, trace_region_bytes: 64 << 20, l1_small_bytes: 0 }
    }
}

/// An open device. There is one in a process at a time, since there is one Python.
///
/// It can be moved to another thread, but not shared, so that nobody can wait for the session from within it:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<tt_metal_sys::Session>();
/// ```
#[derive(Debug)]
pub struct Session {
    _not_shared: PhantomData<Cell<()>>,
}

static OPEN: AtomicBool = AtomicBool::new(false);

impl Session {
    /// Looks for Python and `ttnn`, loads them if they do not run yet, and opens the device.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let interpreter = Interpreter::find(options)?;
        interpreter::start().map_err(|error| Error::Thread(error.to_string()))?;
        if OPEN.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyOpen);
        }
        // From here on, whatever fails closes what is open.
        let session = Self { _not_shared: PhantomData };
        session.on_thread(|home| home.open(&interpreter, options))?;
        Ok(session)
    }

    /// Runs `work` on the thread that owns the device, and waits for it. Hands over and back without allocating.
    ///
    /// If `work` panics, so does this, after whatever was being captured has been ended.
    pub fn with<R: Send>(&self, work: impl FnOnce(&mut Runtime) -> R + Send) -> R {
        self.on_thread(|home| match &mut home.runtime {
            Some(runtime) => {
                let ending = EndCaptures(runtime);
                work(ending.0)
            }
            None => unreachable!("an open session has a runtime"),
        })
    }

    /// Closes the device and says what went wrong with it. Dropping the session closes it in silence.
    pub fn close(self) -> Result<(), Error> {
        let closed = self.close_device();
        drop(self);
        closed
    }

    fn close_device(&self) -> Result<(), Error> {
        self.on_thread(|home| home.runtime.take().map_or(Ok(()), Runtime::close))
    }

    fn on_thread<R: Send>(&self, work: impl FnOnce(&mut Home) -> R + Send) -> R {
        let mut work = Some(work);
        let mut result = None;
        interpreter::run(&mut |home| result = work.take().map(|work| work(home)));
        match result {
            Some(result) => result,
            None => unreachable!("the thread runs a job once, and a panic in it does not come here"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // There is nobody to tell; a device that cannot be closed cannot be opened again either, which will be told.
        let _ = self.close_device();
        OPEN.store(false, Ordering::Release);
    }
}

/// Ends captures if the work that it is made for panics.
struct EndCaptures<'a>(&'a mut Runtime);

impl Drop for EndCaptures<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abandon_captures();
        }
    }
}
