//! A small thread pool for one thing: the tasks of one kernel, spread over all cores, thousands of times per cycle.
//!
//! [`Pool::run`] neither allocates nor locks. Between kernels the workers spin for a moment, then park.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

use core_affinity::CoreId;
use crossbeam::utils::CachePadded;

/// Looks for new work before a worker parks: well above the pause between two kernels of a running program.
const SPINS: u32 = 20_000;
/// How often spinning gives the core away, in case the thread waited for has none.
const SPINS_PER_YIELD: u32 = 512;

/// Tasks of one job at most: what fits into a third of the ticket.
pub(super) const MAX_TASKS: usize = (1 << TASK_BITS) - 1;
const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;

/// `task(index, thread)` with both as the pool gives them.
type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

/// What threads wait for stands in cache lines of its own, so that looking at it holds nobody else up.
struct Shared {
    /// `[job number | tasks | next task]`: claiming a task and knowing its job is one atomic operation, so a worker
    /// that wakes late can never touch a job that is over.
    ticket: CachePadded<AtomicU64>,
    /// Written between jobs only; read only by whoever holds a claimed task of the current job.
    task: UnsafeCell<Option<Task<'static>>>,
    done: CachePadded<AtomicUsize>,
    /// One per worker: it has parked, or is about to.
    parked: Vec<CachePadded<AtomicBool>>,
    stop: AtomicBool,
}

// SAFETY: `task` is written by the one caller of `run` while no task is claimed or unfinished, and read after a claim,
// which synchronises with that write through `ticket`.
unsafe impl Sync for Shared {}
// SAFETY: the task it may hold is `Sync`, so a reference to it may move between threads.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Self::run`] included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            ticket: CachePadded::new(AtomicU64::new(0)),
            task: UnsafeCell::new(None),
            done: CachePadded::new(AtomicUsize::new(0)),
            parked: (0..workers).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            stop: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), handles: Vec::new() };
        let cores = cores_to_pin(threads);
        for index in 0..workers {
            let shared = pool.shared.clone();
            let core = cores.get(index + 1).copied();
            let worker = thread::Builder::new().name(format!("pi0-cpu-{}", index + 1)).spawn(move || {
                if let Some(core) = core {
                    // Where it is refused, the thread works all the same.
                    core_affinity::set_for_current(core);
                }
                shared.work(index);
            })?;
            pool.handles.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(i, thread)` for every `i < tasks` and returns when all are done. `thread` is below
    /// [`Self::threads`] and differs between tasks that run at the same time.
    pub fn run(&mut self, tasks: usize, task: Task) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|index| task(index, 0));
            return;
        }
        assert!(tasks <= MAX_TASKS, "{tasks} tasks are too many for one job");
        let shared = &self.shared;
        // SAFETY: the previous job is over (`run` waits for that), so nobody reads `task` now; and this job's tasks all
        // end before `run` returns, so the reference does not outlive what it borrows.
        unsafe { *shared.task.get() = Some(std::mem::transmute::<Task<'_>, Task<'static>>(task)) };
        shared.done.store(0, Ordering::Relaxed);
        let job = (shared.ticket.load(Ordering::Relaxed) >> (2 * TASK_BITS)).wrapping_add(1);
        shared.ticket.store(job << (2 * TASK_BITS) | (tasks as u64) << TASK_BITS, Ordering::SeqCst);
        for (parked, handle) in shared.parked.iter().zip(&self.handles) {
            if parked.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        shared.take_tasks(0);
        let mut spins = 0u32;
        while shared.done.load(Ordering::Acquire) < tasks {
            pause(&mut spins);
        }
    }
}

/// The cores for the threads of a pool that has one for each core this process may use: every worker stays on its own,
/// the first is left to the caller. A smaller pool has none, so that the system can keep it out of others' way.
fn cores_to_pin(threads: usize) -> Vec<CoreId> {
    core_affinity::get_core_ids().filter(|cores| cores.len() == threads).unwrap_or_default()
}

impl Shared {
    /// Claims and runs tasks of the current job until none is left.
    fn take_tasks(&self, thread: usize) {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let (next, tasks) = (ticket & TASK_MASK, ticket >> TASK_BITS & TASK_MASK);
            if next >= tasks {
                return;
            }
            match self.ticket.compare_exchange_weak(ticket, ticket + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: the claimed task is unfinished, so `run` still waits and `task` is this job's.
                    if let Some(task) = unsafe { *self.task.get() } {
                        task(next as usize, thread);
                    }
                    self.done.fetch_add(1, Ordering::AcqRel);
                    ticket = self.ticket.load(Ordering::Acquire);
                }
                Err(current) => ticket = current,
            }
        }
    }

    fn has_tasks(&self) -> bool {
        let ticket = self.ticket.load(Ordering::SeqCst);
        ticket & TASK_MASK < ticket >> TASK_BITS & TASK_MASK
    }

    /// A worker's life: take tasks, spin for more, park.
    fn work(&self, index: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Acquire) {
            if self.has_tasks() {
                self.take_tasks(index + 1);
                spins = 0;
            } else if spins < SPINS {
                pause(&mut spins);
            } else {
                // Said before looking once more: either this sees the new job, or `run` sees `parked`.
                self.parked[index].store(true, Ordering::SeqCst);
                if !self.has_tasks() && !self.stop.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.parked[index].store(false, Ordering::SeqCst);
                spins = 0;
            }
        }
    }
}

fn pause(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(SPINS_PER_YIELD) { thread::yield_now() } else { spin_loop() }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (worker, handle) in self.workers.drain(..).zip(&self.handles) {
            handle.unpark();
            // A worker that panicked has already said so.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[test]
    fn every_task_of_every_job_runs_exactly_once() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicU32> = (0..37).map(|_| AtomicU32::new(0)).collect();
            for job in 1..=2000u32 {
                let tasks = 1 + job as usize % counts.len();
                pool.run(tasks, &|task, thread| {
                    assert!(thread < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                let total: u32 = counts.iter().map(|count| count.swap(0, Ordering::Relaxed)).sum();
                assert_eq!(total as usize, tasks);
            }
        }
    }

    #[test]
    fn parked_workers_wake_up_for_work() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(30));
            let busy = [AtomicBool::new(false), AtomicBool::new(false)];
            // Each task waits for the other, so this ends only if both threads take one.
            pool.run(2, &|task, _| {
                busy[task].store(true, Ordering::SeqCst);
                while !busy[1 - task].load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            });
        }
    }
}
