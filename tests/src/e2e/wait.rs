//! The one place that waits by looking again.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks; a look usually starts a process, which takes longer.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
///
/// # Panics
/// When `deadline` has passed; the message names what was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        sleep(PAUSE);
    }
}
