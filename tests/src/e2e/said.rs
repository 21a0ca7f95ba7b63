//! What a command said, and how long it took to say it.

use std::fmt::{self, Display, Formatter};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A finished command.
#[derive(Debug, Clone)]
pub struct Said {
    /// As a person would type it.
    pub line: String,
    /// Exit code; -1 for the end by a signal.
    pub code: i32,
    /// Standard output, lossily as text.
    pub out: String,
    /// Standard error, lossily as text.
    pub err: String,
    /// From start to end.
    pub took: Duration,
}

impl Said {
    /// Runs a command to its end, with `input` on its standard input.
    ///
    /// # Panics
    /// When it cannot be started, or has not ended after `deadline`.
    pub fn by(program: &str, args: &[&str], input: &[u8], deadline: Duration) -> Self {
        let line = [&[program], args].concat().join(" ");
        let start = Instant::now();
        // `timeout` exits with 124 when it had to end the command.
        let mut child = Command::new("timeout")
            .args(["--kill-after=5", &deadline.as_secs().max(1).to_string(), program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        let output = std::thread::scope(|scope| {
            // A command that does not read its input is free not to.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for {line}: {error}"))
        });
        let said = Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
            line,
        };
        assert!(said.code != 124 && said.code != 137, "did not end in {deadline:?}: {said}");
        said
    }

    /// Its standard output, if it succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> String {
        assert!(self.code == 0, "should have succeeded: {self}");
        self.out
    }

    /// Demands an end with `code` whose last line on standard error, after whatever it showed of its progress, holds every
    /// one of `words`.
    ///
    /// # Panics
    /// When it is anything else.
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert!(self.code == code, "should have failed with exit code {code}: {self}");
        let last = self.err.lines().last().unwrap_or_default();
        for word in words {
            assert!(last.contains(word), "should have said {word:?} in the end: {self}");
        }
    }

    /// Demands a refusal: exit code `code`, nothing on standard output, and one clear line on standard error that holds
    /// every one of `words`.
    ///
    /// # Panics
    /// When it is anything else.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert!(self.code == code, "should have been refused with exit code {code}: {self}");
        // `inspect` prints the list of what it found, as Swarm's does.
        assert!(self.out.is_empty() || self.out == "[]\n", "a refusal belongs on standard error: {self}");
        let lines: Vec<&str> = self.err.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(lines.len() == 1, "should have been one line: {self}");
        for word in words {
            assert!(lines[0].to_lowercase().contains(&word.to_lowercase()), "should have said {word:?}: {self}");
        }
        for noise in ["panicked", "RUST_BACKTRACE", "Status {", "status: '", "MetadataMap", "Os { code"] {
            assert!(!lines[0].contains(noise), "is not for people ({noise}): {self}");
        }
    }
}

impl Display for Said {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ended with {} after {:.2} s\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.line,
            self.code,
            self.took.as_secs_f64(),
            self.out.trim_end(),
            self.err.trim_end()
        )
    }
}
