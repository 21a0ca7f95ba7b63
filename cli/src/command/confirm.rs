//! The question before what cannot be undone.

use crate::failure::Failure;
use crate::render::output;
use std::io::BufRead;

/// Shows the warning and asks; only `y` is a yes, and so is nothing else: not even
/// the end of the input.
pub fn ask(warning: &str) -> Result<bool, Failure> {
    output::write(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::refused(format!("cannot read the answer: {error}")))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
