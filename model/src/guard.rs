//! Where a panic is caught on purpose.
//!
//! Anything in a daemon that panics ends the daemon (`skep_identity::process`), except in
//! here: one value that brings a bug to light takes down nothing but itself.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// How many guards this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Guards that threads of a library work for.
static WITH_HELPERS: AtomicUsize = AtomicUsize::new(0);

/// Does what may panic without harm to anybody else.
///
/// # Errors
/// What the panic said.
pub fn catch<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(act));
    DEPTH.set(DEPTH.get() - 1);
    done.map_err(|payload| text(&*payload))
}

/// As [`catch`], where a library has threads of its own work at it, which have no name
/// and hand their panics on to this one.
///
/// # Errors
/// What the panic said.
pub fn catch_with_helpers<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    WITH_HELPERS.fetch_add(1, Ordering::SeqCst);
    let done = catch(act);
    WITH_HELPERS.fetch_sub(1, Ordering::SeqCst);
    done
}

/// Whether a panic of this thread would be caught on purpose.
pub fn is_caught() -> bool {
    let is_helper = || WITH_HELPERS.load(Ordering::SeqCst) > 0 && std::thread::current().name().is_none();
    DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0) || is_helper()
}

/// What a panic said.
pub fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_says_what_the_panic_said_and_ends_with_its_scope() {
        assert!(!is_caught());
        assert_eq!(catch(|| is_caught() && catch(is_caught) == Ok(true) && is_caught()), Ok(true));
        assert_eq!(catch(|| panic!("at {}", 7)).map(|()| 0), Err("at 7".into()));
        assert!(!is_caught(), "also after a panic");
    }

    #[test]
    fn a_librarys_nameless_threads_are_in_the_guard_that_they_work_for() {
        let elsewhere = |name: Option<&str>| {
            let builder = name.map_or_else(std::thread::Builder::new, |name| std::thread::Builder::new().name(name.into()));
            std::thread::scope(|scope| builder.spawn_scoped(scope, is_caught).unwrap().join().unwrap())
        };
        assert!(!elsewhere(None));
        assert_eq!(catch_with_helpers(|| (elsewhere(None), elsewhere(Some("ours")))), Ok((true, false)));
        assert!(!elsewhere(None));
    }
}
