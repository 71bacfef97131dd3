//! The control thread's place in the system: a core of its own, a real-time priority, no page faults. Called by `node` at
//! the start of that thread.
//!
//! What the system does not permit is said once and the node goes on: slower on a busy machine, not wrong.

use std::fs;
use std::hint::black_box;
use std::io;

use core_affinity::CoreId;

use crate::settings::RealTimeSettings;

/// Threads of the device whose name starts so share the control thread's priority: it waits for them.
const DEVICE_THREADS: &str = "pi0-cpu-";
/// More stack than a cycle needs.
const STACK: usize = 256 << 10;

/// Sets the calling thread up as the settings say. What was not permitted comes back, in words for people.
pub fn make_real_time(settings: RealTimeSettings) -> Vec<String> {
    let mut refused = Vec::new();
    if let Some(core) = settings.core
        && !core_affinity::set_for_current(CoreId { id: core })
    {
        refused.push(format!(
            "control_core: the control thread cannot be kept on core {core}; does this machine have it?"
        ));
    }
    let Some(priority) = settings.priority else { return refused };
    touch_stack();
    if let Err(error) = lock_memory() {
        refused.push(format!(
            "control_priority: memory cannot be locked ({error}): pages may have to be fetched during a cycle. Raise \
             memlock in limits.conf (docs/realtime.md)"
        ));
    }
    let threads = std::iter::once(0).chain(device_threads());
    if let Some(error) = threads.filter_map(|thread| set_priority(thread, priority).err()).next() {
        refused.push(format!(
            "control_priority: SCHED_FIFO {priority} is refused ({error}): other processes may interrupt a cycle. Raise \
             rtprio in limits.conf (docs/realtime.md)"
        ));
    }
    refused
}

/// Touches the stack's pages, so that they are there before the first cycle, and are locked.
#[inline(never)]
fn touch_stack() {
    let mut stack = [0_u8; STACK];
    black_box(&mut stack);
}

/// Keeps every page that is in memory there, and every page that comes.
fn lock_memory() -> io::Result<()> {
    // A page of the stack or the heap that nobody touches is not fetched: threads have megabytes of them.
    const FLAGS: i32 = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: a system call that takes flags and touches no memory of ours.
    match unsafe { libc::mlockall(FLAGS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a thread, or the calling one for 0, a first-in-first-out priority.
fn set_priority(thread: libc::pid_t, priority: u8) -> io::Result<()> {
    // SAFETY: plain numbers; all of them zero is valid.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = i32::from(priority);
    // SAFETY: a system call that reads the parameters, which outlive it.
    match unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The system's numbers of this process's device threads.
fn device_threads() -> Vec<libc::pid_t> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_device = |name: &str| {
        let comm = fs::read_to_string(format!("/proc/self/task/{name}/comm"));
        comm.is_ok_and(|comm| comm.starts_with(DEVICE_THREADS))
    };
    threads
        .filter_map(|thread| thread.file_name().into_string().ok())
        .filter(|name| is_device(name))
        .filter_map(|name| name.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nothing_asked_is_nothing_refused() {
        assert_eq!(make_real_time(RealTimeSettings::default()), Vec::<String>::new());
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_in_words() {
        let refused = make_real_time(RealTimeSettings { core: Some(1023), priority: None });
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with("control_core: "), "{refused:?}");
    }

    #[test]
    fn the_devices_threads_are_found_by_name() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let device = thread::Builder::new().name("pi0-cpu-1".into());
        let device = device.spawn(move || stopped.recv()).unwrap();
        while device_threads().is_empty() {
            thread::yield_now();
        }
        drop(stop);
        let _ = device.join().unwrap();
    }
}
