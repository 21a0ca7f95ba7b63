//! Requests that leave by the clock while a test does harm.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running `traffic load`.
pub struct Load {
    child: Child,
    leash: Option<ChildStdin>,
    voice: BufReader<ChildStdout>,
}

/// What became of its requests.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that left.
    pub sent: usize,
    /// Those that were not answered, or not with a success.
    pub failed: usize,
    /// Answers by the server's name.
    pub servers: BTreeMap<String, usize>,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// Milliseconds from when a request was due to its answer: median, 99th of 100, worst.
    pub latency_ms: [u64; 3],
}

impl Load {
    /// Starts it; requests leave from now on.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let leash = child.stdin.take();
        let mut voice = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let mut word = String::new();
        voice.read_line(&mut word).expect("it answers");
        assert!(word.trim() == "loading", "{command:?} said {word:?}");
        Self { child, leash, voice }
    }

    /// Lets the requests that are on their way end, and counts. It ends by itself, as each request has a deadline.
    ///
    /// # Panics
    /// When it says something else.
    pub fn finish(mut self) -> Report {
        drop(self.leash.take());
        let mut text = String::new();
        self.voice.read_to_string(&mut text).expect("its output is text");
        let status = self.child.wait().expect("it can be waited for");
        assert!(status.success(), "the load ended with {status}: {text}");
        let mut report = Report::default();
        text.lines().for_each(|line| report.read(line));
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.leash.take());
        // Already waited for, unless the test failed: then it ends as its input did.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("the load said {line:?}"));
        match words[..] {
            ["sent", n] => self.sent = number(n),
            ["failed", n] => self.failed = number(n),
            ["server", name, n] => drop(self.servers.insert(name.to_owned(), number(n))),
            ["ms", median, high, worst] => self.latency_ms = [median, high, worst].map(|n| number(n) as u64),
            ["failure", ..] => self.failures.push(line.to_owned()),
            _ => panic!("the load said {line:?}"),
        }
    }

    /// Demands that there were requests and that every one was answered.
    ///
    /// # Panics
    /// When one was not; the message has the first failures.
    pub fn lost_nothing(&self, during: &str) {
        let n_answered: usize = self.servers.values().sum();
        let n_servers = self.servers.len();
        println!("{during}: {} requests to {n_servers} tasks, {} failed, ms {:?}", self.sent, self.failed, self.latency_ms);
        assert!(self.sent > 0, "no request left during {during}");
        assert!(
            self.failed == 0 && n_answered == self.sent,
            "{during}: {} of {} requests failed:\n{}",
            self.failed,
            self.sent,
            self.failures.join("\n")
        );
    }
}
