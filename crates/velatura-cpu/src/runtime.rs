//! What all plans of a program share: the thread pool and the instruction set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Isa, ThreadPool};

/// The thread pool and the instruction set, shared by all executors of a program.
pub struct Runtime {
    /// Runs the kernels.
    pub pool: ThreadPool,
    /// What they are made of.
    pub isa: Isa,
}

impl Runtime {
    /// A runtime of this many threads (all processors when not given) on the active instruction set.
    pub fn new(threads: Option<usize>) -> Arc<Self> {
        let pool = threads.map_or_else(ThreadPool::with_all_processors, ThreadPool::new);
        Arc::new(Runtime { pool, isa: Isa::active() })
    }

    /// A runtime on a given instruction set, for tests that compare them.
    pub fn with_isa(threads: usize, isa: Isa) -> Arc<Self> {
        Arc::new(Runtime { pool: ThreadPool::new(threads), isa })
    }
}

/// Asks a run to stop. Executors look at it between nodes.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks everything that holds this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether stopping was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
