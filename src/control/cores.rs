//! The cores that a thread may run on. Called by `real_time`, which keeps the control thread off the device's cores, and by
//! `rebuild`, which must not make a new device within the control thread's narrow limits: threads inherit them.

use std::io;

/// A set of cores.
#[derive(Clone, Copy)]
pub(super) struct Cores(libc::cpu_set_t);

impl Cores {
    /// Those of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::of(0)
    }

    /// Those of a thread, by the system's number.
    pub fn of(thread: libc::pid_t) -> io::Result<Self> {
        // SAFETY: a set of bits; none of them set is valid.
        let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: a system call that writes the set, which outlives it.
        match unsafe { libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &raw mut cores) } {
            0 => Ok(Self(cores)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// All but one core.
    pub fn without(mut self, core: usize) -> Self {
        if core < libc::CPU_SETSIZE as usize {
            // SAFETY: plain bit operations, within the set.
            unsafe { libc::CPU_CLR(core, &mut self.0) };
        }
        self
    }

    /// The core, if there is only one.
    pub fn single(&self) -> Option<usize> {
        // SAFETY: plain bit operations, within the set.
        let has = |core: &usize| unsafe { libc::CPU_ISSET(*core, &self.0) };
        let mut cores = (0..libc::CPU_SETSIZE as usize).filter(has);
        cores.next().filter(|_| cores.next().is_none())
    }

    /// Keeps the calling thread on these cores. None of them is an error that changes nothing.
    pub fn keep_to(&self) -> io::Result<()> {
        // SAFETY: a system call that reads the set, which outlives it.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Does something on these cores, and goes back to the calling thread's own. Where the system does not permit that, it is
    /// done all the same.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let own = Self::current();
        let _ = self.keep_to();
        let done = work();
        if let Ok(own) = own {
            let _ = own.keep_to();
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn work_on_other_cores_leaves_the_threads_own_as_they_were() {
        let all = Cores::current().unwrap();
        let count = || thread::available_parallelism().unwrap().get();
        let everywhere = count();
        let kept = thread::spawn(move || {
            let first = core_affinity::get_core_ids().unwrap()[0];
            assert!(core_affinity::set_for_current(first));
            assert_eq!(Cores::current().unwrap().single(), Some(first.id));
            let inherited = all.run(|| thread::spawn(count).join().unwrap());
            (inherited, count())
        });
        assert_eq!(kept.join().unwrap(), (everywhere, 1));
    }

    #[test]
    fn no_core_at_all_is_refused_and_changes_nothing() {
        let own = Cores::current().unwrap();
        let none = (0..libc::CPU_SETSIZE as usize).fold(own, Cores::without);
        assert!(none.keep_to().is_err());
        assert_eq!(Cores::current().unwrap().single(), own.single());
        let _ = own.without(usize::MAX);
    }
}
