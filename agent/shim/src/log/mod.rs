//! A task's output on disk: the shim writes it, the agent reads it, neither needs the other.
//!
//! A log is a folder of numbered files, `000001.log` and up; the highest is being written, and the oldest are removed
//! when there are too many. Files are never renamed, so a [`Position`] (file number, byte offset) stays true until its
//! file is removed, and a follower needs only a watch on the folder.
//!
//! One record is one line: `NANOSECONDS STREAM FLAG TEXT\n` with stream `o` or `e` and flag `F` (the line is whole) or
//! `P` (it goes on in the next record of that stream). Text is the task's bytes; it holds no newline. Writes are
//! batched and never synced: what the kernel took survives the death of every process, and that is the promise.

mod lines;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use lines::{LINE_MAX, Line, LineCutter, LineJoiner};
pub use reader::{Batch, LogReader};
pub use writer::LogWriter;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The longest text of one record, in bytes; a longer line becomes partial records.
pub const TEXT_MAX: usize = 16 << 10;

/// Why a log could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the log {path}")]
pub struct LogError {
    /// What was tried.
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn fail(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError { verb, path, source }
}

/// Which output a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Where it was written.
    pub stream: Stream,
    /// The line goes on in the stream's next record.
    pub partial: bool,
    /// Without the newline.
    pub text: Vec<u8>,
}

/// A place in a log. The default is the beginning of whatever is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Number of the file.
    pub file: u64,
    /// Bytes from its start; always a record's beginning.
    pub offset: u64,
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}.log"))
}

/// Numbers of the files there are, rising.
fn numbers(dir: &Path) -> Result<Vec<u64>, LogError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fail("list", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail("list", dir))?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
