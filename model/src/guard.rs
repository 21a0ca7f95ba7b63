//! Where a panic is caught on purpose.
//!
//! Anything in a daemon that panics ends the daemon (`skep_host::process`), except in
//! here: one value that brings a bug to light takes down nothing but itself.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many guards this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

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

/// Whether a panic of this thread would be caught on purpose.
pub fn is_caught() -> bool {
    DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0)
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
}
