//! A process that is asked to stop before it is killed, and that never outlives its owner. Called by `demo`.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::unistd::Pid;

pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a command, out of reach of the terminal's Ctrl-C: its owner decides when it stops.
    pub fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        // SAFETY: what runs between fork and exec only makes system calls.
        unsafe { command.pre_exec(heed_signals) };
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start the {name}"))?;
        Ok(Self { name, child })
    }

    /// The process's standard output, if its command piped it; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// An error if the process has ended.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the {} ended before its time ({status})", self.name),
            None => Ok(()),
        }
    }

    /// Asks the process to stop, as Ctrl-C would, and waits for it; kills it if it takes longer than `patience`.
    pub fn stop(&mut self, patience: Duration) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)
                .with_context(|| format!("cannot stop the {}", self.name))?;
        }
        match self.wait(patience)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the {} failed ({status})", self.name),
            None => {
                self.kill();
                bail!("the {} did not stop within {} s and was killed", self.name, patience.as_secs_f32())
            }
        }
    }

    fn wait(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let end = Instant::now() + patience;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Set when somebody asks us to stop, by whatever key or signal: there are processes to stop first.
pub fn asked_to_stop() -> anyhow::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for asked in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        signal_hook::flag::register(asked as i32, Arc::clone(&stopped))
            .with_context(|| format!("cannot listen to {asked}"))?;
    }
    Ok(stopped)
}

/// Undoes what a process inherits if we were started in the background or by `nohup`: ignored and blocked signals, which
/// some programs, shells among them, cannot heed any more.
fn heed_signals() -> std::io::Result<()> {
    SigSet::all().thread_unblock()?;
    for asked in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        // SAFETY: the default of a signal runs none of our code.
        unsafe { signal(asked, SigHandler::SigDfl)? };
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    use std::sync::atomic::Ordering;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A shell that has said that it is ready to be stopped.
    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut process = Process::start("shell", &mut command).unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        process
    }

    #[test]
    fn a_process_that_heeds_the_interrupt_stops_cleanly() {
        let mut process = shell("trap 'exit 0' INT; echo ready; while :; do sleep 0.01; done");
        process.check_running().unwrap();
        process.stop(PATIENCE).unwrap();
    }

    #[test]
    fn a_process_heeds_the_interrupt_even_if_we_ignore_it() {
        /// Restores what the tests beside this one may rely on.
        struct Restore(SigHandler);
        impl Drop for Restore {
            fn drop(&mut self) {
                // SAFETY: it was so before.
                unsafe { signal(Signal::SIGINT, self.0) }.unwrap();
            }
        }
        // SAFETY: ignoring a signal runs none of our code.
        let _restore = Restore(unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.unwrap());
        let mut process = shell("trap 'exit 0' INT; echo ready; while :; do sleep 0.01; done");
        process.stop(PATIENCE).unwrap();
    }

    #[test]
    fn a_process_that_fails_while_stopping_is_an_error() {
        let mut process = shell("trap 'exit 3' INT; echo ready; while :; do sleep 0.01; done");
        let error = process.stop(PATIENCE).unwrap_err().to_string();
        assert!(error.contains("the shell failed") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_process_that_ignores_the_interrupt_is_killed() {
        let mut process = shell("trap '' INT; echo ready; while :; do sleep 0.01; done");
        let error = process.stop(Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.contains("did not stop within 0.1 s"), "{error}");
        assert!(process.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut process = shell("echo ready");
        process.wait(PATIENCE).unwrap();
        let error = process.check_running().unwrap_err().to_string();
        assert!(error.contains("the shell ended before its time"), "{error}");
    }

    #[test]
    fn every_way_to_ask_is_heard() {
        // SIGINT is another test's.
        for asked in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            let stopped = asked_to_stop().unwrap();
            signal_hook::low_level::raise(asked as i32).unwrap();
            assert!(stopped.load(Ordering::Relaxed), "{asked}");
        }
    }

    #[test]
    fn no_process_outlives_its_owner() {
        let process = shell("trap '' INT; echo ready; exec sleep 60");
        let pid = Pid::from_raw(process.child.id().cast_signed());
        drop(process);
        assert!(kill(pid, None).is_err());
    }
}
