//! The view of a deployment under way: bars on a terminal, plain lines elsewhere.

use super::output;
use crate::failure::Failure;
use skep_model::TaskState;
use skep_model::task::Task;
use std::io::IsTerminal;

/// How many tasks have a bar; with more, only the overall line is shown.
pub const BARS_MAX: usize = 20;
/// No line is longer, so that none wraps and the cursor finds its way back.
const WIDTH: usize = 79;
const BAR: usize = 50;

/// What is shown at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// How many tasks are done.
    pub overall: String,
    /// A line for each task.
    pub tasks: Vec<String>,
    /// What is waited for, or how it ended.
    pub verify: String,
}

/// Shows frames one after the other.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    shown: Frame,
    n_lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Live,
}

impl Progress {
    /// A view for the standard output of this program.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, std::io::stdout().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Live,
            (false, false) => Mode::Lines,
        };
        Self { mode, shown: Frame::default(), n_lines: 0 }
    }

    /// Shows a frame in place of the one before.
    pub fn show(&mut self, frame: Frame) -> Result<(), Failure> {
        let text = match self.mode {
            _ if frame == self.shown => String::new(),
            Mode::Quiet => String::new(),
            Mode::Lines => lines(&self.shown, &frame),
            Mode::Live => {
                let (text, n_lines) = live(&frame, self.n_lines);
                self.n_lines = n_lines;
                text
            }
        };
        self.shown = frame;
        output::write(&text)
    }
}

/// What changed, a line each.
fn lines(before: &Frame, now: &Frame) -> String {
    let mut text = String::new();
    if now.overall != before.overall {
        text.push_str(&format!("{}\n", now.overall));
    }
    let bare = |line: &String| line.split(" [").next().unwrap_or_default().trim_end().to_owned();
    let known: Vec<String> = before.tasks.iter().map(bare).collect();
    for line in now.tasks.iter().map(bare).filter(|line| !line.ends_with(':') && !known.contains(line)) {
        text.push_str(&format!("{line}\n"));
    }
    if now.verify != before.verify && !now.verify.is_empty() {
        text.push_str(&format!("verify: {}\n", now.verify));
    }
    text
}

/// The frame drawn over the one before, which had that many lines.
fn live(frame: &Frame, n_before: usize) -> (String, usize) {
    let mut rows = vec![frame.overall.clone()];
    rows.extend(frame.tasks.iter().cloned());
    if !frame.verify.is_empty() {
        rows.push(format!("verify: {}", frame.verify));
    }
    let mut text = if n_before > 0 { format!("\x1b[{n_before}A\x1b[J") } else { String::new() };
    for row in &rows {
        text.push_str(&row.chars().take(WIDTH).collect::<String>());
        text.push('\n');
    }
    (text, rows.len())
}

/// The line of one task: its label, state or error, and how far it has got.
pub fn task_line(label: &str, task: Option<&Task>) -> String {
    let Some(task) = task else { return format!("{label}:") };
    let status = &task.status;
    if !status.error.is_empty() {
        let error = status.error.replace(['\n', '\r', '\t'], " ");
        return format!("{label}: {error}").chars().take(WIDTH).collect();
    }
    let step = match status.state {
        TaskState::New => 1,
        TaskState::Pending => 3,
        TaskState::Assigned => 4,
        TaskState::Accepted => 5,
        TaskState::Preparing => 6,
        TaskState::Ready => 7,
        TaskState::Starting => 8,
        TaskState::Running => 9,
        _ => return format!("{label}: {}", status.state.name()),
    };
    let filled = BAR * step / 9;
    let head = if step == 9 { "=".repeat(BAR) } else { "=".repeat(filled) };
    let bar = format!("{head}>{}", " ".repeat(BAR - head.len()));
    format!("{label}: {:<9} [{bar}]", status.state.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(overall: &str, verify: &str) -> Frame {
        Frame { overall: overall.into(), tasks: vec!["1/1: running".into()], verify: verify.into() }
    }

    #[test]
    fn lines_say_only_what_changed() {
        assert_eq!(lines(&Frame::default(), &frame("a", "")), "a\n1/1: running\n");
        assert_eq!(lines(&frame("a", ""), &frame("a", "b")), "verify: b\n");
        assert_eq!(lines(&frame("a", "b"), &frame("c", "b")), "c\n");
    }

    #[test]
    fn a_live_frame_covers_the_one_before() {
        let (text, n_lines) = live(&frame("a", "b"), 0);
        assert_eq!((text.as_str(), n_lines), ("a\n1/1: running\nverify: b\n", 3));
        assert!(live(&frame("a", ""), 3).0.starts_with("\x1b[3A\x1b[J"));
    }
}
