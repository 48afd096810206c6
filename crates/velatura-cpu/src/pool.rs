//! One persistent pool of threads. A kernel splits its output into tasks; the split never depends on
//! the number of threads, so neither do the bits of the result.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// How long an idle worker spins before it sleeps. Longer than the gap between two kernels of a
/// running plan, short enough that an idle program uses no processor time.
const SPIN: Duration = Duration::from_micros(200);

/// How many times the caller looks whether the workers are done before it begins to give its processor away
/// in between: some milliseconds.
const PATIENCE: u32 = 100_000;

/// A fixed number of threads, the caller's included, that run the tasks of one kernel at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during [`ThreadPool::run`], so that two callers take turns.
    turn: Mutex<()>,
}

struct Shared {
    /// Incremented when a job is published; workers wait for it to change.
    generation: AtomicUsize,
    job: Mutex<Option<Job>>,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

#[derive(Clone)]
struct Job {
    task: *const Task<'static>,
    count: usize,
    next: Arc<AtomicUsize>,
}

// SAFETY: the pointer is to a `Sync` closure that `run` keeps alive until every worker is done.
unsafe impl Send for Job {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ThreadPool {
    /// A pool of `threads` threads (at least one: the caller's own).
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: Mutex::new(None),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..threads.max(1))
            .filter_map(|worker| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("velatura-{worker}"))
                    .spawn(move || work(&shared, worker))
                    .ok()
            })
            .collect();
        ThreadPool { shared, workers, turn: Mutex::new(()) }
    }

    /// A pool with one thread for each available processor.
    pub fn with_all_processors() -> Self {
        Self::new(thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// The number of threads, the caller's included; worker numbers are below it.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(index, worker)` once for every index below `count`, and returns when all are done.
    ///
    /// Indices are handed out in order to whichever thread is free. A panic in a task is raised again
    /// here after the others have finished.
    pub fn run(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
        if count <= 1 || self.workers.is_empty() {
            (0..count).for_each(|index| task(index, 0));
            return;
        }
        let _turn = lock(&self.turn);
        let task: &Task<'_> = &task;
        // SAFETY: only the lifetime is changed; this function returns after every worker has finished
        // with the pointer, and the caller's own panic is caught until then.
        let task: *const Task<'static> = unsafe { std::mem::transmute(task as *const Task<'_>) };
        let job = Job { task, count, next: Arc::new(AtomicUsize::new(0)) };
        *lock(&self.shared.job) = Some(job.clone());
        self.shared.busy.store(self.workers.len(), Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        let own = catch_unwind(AssertUnwindSafe(|| perform(&job, 0)));
        let mut spins = 0u32;
        while self.shared.busy.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
            spins = spins.saturating_add(1);
            // Workers finish together, unless one lost its processor to another program.
            if spins > PATIENCE {
                thread::yield_now();
            }
        }
        *lock(&self.shared.job) = None;
        let other = lock(&self.shared.panic).take();
        if let Some(payload) = own.err().or(other) {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

fn perform(job: &Job, worker: usize) {
    loop {
        let index = job.next.fetch_add(1, Ordering::Relaxed);
        if index >= job.count {
            return;
        }
        // SAFETY: `ThreadPool::run` keeps the closure alive until every worker has finished.
        unsafe { (*job.task)(index, worker) };
    }
}

fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let mut since: Option<Instant> = None;
        let mut spins = 0u32;
        let generation = loop {
            let generation = shared.generation.load(Ordering::Acquire);
            if generation != seen {
                break generation;
            }
            std::hint::spin_loop();
            spins += 1;
            // No yielding in between: on a busy machine that gives the processor away for milliseconds.
            if spins.is_multiple_of(256) && since.get_or_insert_with(Instant::now).elapsed() > SPIN {
                thread::park();
            }
        };
        seen = generation;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let job = lock(&shared.job).clone();
        if let Some(job) = job
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| perform(&job, worker)))
        {
            *lock(&shared.panic) = Some(payload);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for count in [0, 1, 2, 7, 1000] {
                let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, |index, worker| {
                    assert!(worker < threads);
                    seen[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(64, |i, _| assert!(i != 17, "seventeen"))));
        assert!(caught.is_err());
        let total = AtomicUsize::new(0);
        pool.run(10, |i, _| {
            total.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(total.load(Ordering::Relaxed), 45);
    }
}
