//! Standard output that may be closed early, as by `| head`.

use crate::failure::Failure;
use std::io::Write;

/// Writes text as it is. A closed pipe is no error: whoever read had enough.
pub fn write(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

/// Writes a line.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    write(&format!("{}\n", text.as_ref()))
}

/// Writes bytes as they are.
pub fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::refused(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes what the user should know although all went well, on standard error.
pub fn warning(text: Option<String>) {
    if let Some(text) = text {
        eprintln!("{text}");
    }
}
