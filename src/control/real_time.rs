//! The control thread's place in the system: a core of its own, a real-time priority, no page faults. Called by `node` at
//! the start of that thread, and of those that it waits for or that wait for it.
//!
//! What the system does not permit is said once and the node goes on: slower on a busy machine, not wrong.

use std::fs;
use std::hint::black_box;
use std::io;

use core_affinity::CoreId;

use super::cores::Cores;
use crate::settings::RealTimeSettings;

/// Threads of the device whose name starts so share the control thread's priority: it waits for them.
const DEVICE_THREADS: &str = "pi0-cpu-";
/// More stack than a cycle needs.
const STACK: usize = 256 << 10;

/// Sets the calling thread up as the settings say. What was not permitted comes back, in words for people.
pub fn make_real_time(settings: RealTimeSettings) -> Vec<String> {
    let mut refused = Vec::new();
    match settings.core {
        Some(core) if !core_affinity::set_for_current(CoreId { id: core }) => refused.push(format!(
            "control_core: the control thread cannot be kept on core {core}; does this machine have it?"
        )),
        Some(_) => {}
        None => leave_to_device(),
    }
    if let Some(priority) = settings.priority {
        refused.extend(make_urgent(priority, device_threads()));
    }
    refused
}

/// Makes the calling thread as urgent as the control thread, on any core. What is not permitted has been said by that one.
pub fn make_as_urgent(settings: RealTimeSettings) {
    if let Some(priority) = settings.priority {
        make_urgent(priority, Vec::new());
    }
}

/// As [`make_as_urgent`], but this thread goes before the control thread and the device's: it has little to do, and must do
/// that at its time.
pub fn make_most_urgent(settings: RealTimeSettings) {
    const HIGHEST: u8 = 99;
    if let Some(priority) = settings.priority {
        make_urgent((priority + 1).min(HIGHEST), Vec::new());
    }
}

/// As [`make_as_urgent`], but the control thread goes first: it must not wait for a large image.
pub fn make_almost_as_urgent(settings: RealTimeSettings) {
    if let Some(priority) = settings.priority.filter(|priority| *priority > 1) {
        make_urgent(priority - 1, Vec::new());
    }
}

/// Gives the calling thread and `others` a priority and locks memory.
fn make_urgent(priority: u8, others: Vec<libc::pid_t>) -> Vec<String> {
    let mut refused = Vec::new();
    touch_stack();
    if let Err(error) = lock_memory() {
        refused.push(format!(
            "control_priority: memory cannot be locked ({error}): pages may have to be fetched during a cycle. Raise \
             memlock in limits.conf (docs/realtime.md)"
        ));
    }
    let threads = std::iter::once(0).chain(others);
    if let Some(error) = threads.filter_map(|thread| set_priority(thread, priority).err()).next() {
        refused.push(format!(
            "control_priority: SCHED_FIFO {priority} is refused ({error}): other processes may interrupt a cycle. Raise \
             rtprio in limits.conf (docs/realtime.md)"
        ));
    }
    refused
}

/// Keeps the calling thread off the cores that the device's threads stay on: there each would wait for the other in every
/// product. Changes nothing where that leaves no core.
fn leave_to_device() {
    let taken = device_threads().into_iter().filter_map(|thread| Cores::of(thread).ok()?.single());
    if let Ok(own) = Cores::current() {
        let _ = taken.fold(own, Cores::without).keep_to();
    }
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
    fn the_devices_threads_are_found_by_name_and_their_cores_left_to_them() {
        let cores = core_affinity::get_core_ids().unwrap();
        let last = *cores.last().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let device = thread::Builder::new().name("pi0-cpu-1".into());
        let device = device.spawn(move || {
            assert!(core_affinity::set_for_current(last));
            stopped.recv()
        });
        let pinned = |thread| Cores::of(thread).ok()?.single();
        while device_threads().into_iter().find_map(pinned) != Some(last.id) {
            thread::yield_now();
        }
        let control = thread::spawn(|| {
            make_real_time(RealTimeSettings::default());
            core_affinity::get_core_ids().unwrap()
        });
        let left = control.join().unwrap();
        // A machine of one core has none to leave. Devices of tests beside this one may take more.
        assert!(!left.is_empty() && left.iter().all(|core| cores.contains(core)));
        assert_eq!(left.contains(&last), cores.len() == 1);
        drop(stop);
        let _ = device.unwrap().join().unwrap();
    }
}
