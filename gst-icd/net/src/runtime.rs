//! The one tokio runtime of a process.

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Runtime};

/// Enough for a grid node; more nodes in one process share them.
const WORKERS: usize = 2;

/// The runtime, started at the first call.
///
/// Fails if the process may have no more threads.
pub fn runtime() -> std::io::Result<&'static Runtime> {
    static RUNTIME: OnceCell<Runtime> = OnceCell::new();
    RUNTIME.get_or_try_init(|| {
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("icd-runtime")
            .enable_all()
            .build()
    })
}
