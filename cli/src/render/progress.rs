//! The view of a deployment under way: bars on a terminal, plain lines elsewhere.
//!
//! On a terminal no line is as wide as it, and there are fewer lines than it has, so
//! that none wraps or scrolls away and the next frame covers this one.

use super::output;
use super::text::{columns, printable, shortened};
use crate::failure::Failure;
use skep_model::TaskState;
use skep_model::task::Task;
use std::io::IsTerminal;
use terminal_size::{Height, Width};

/// How many tasks have a bar; with more, only the overall line is shown.
pub const BARS_MAX: usize = 20;
/// What is assumed of a terminal that does not tell its size.
const SIZE_DEFAULT: Size = Size { columns: 80, rows: 24 };
/// The longest bar, in columns, without its brackets and head.
const BAR_MAX: usize = 50;
/// The shortest bar that is worth its place.
const BAR_MIN: usize = 5;
/// How many states a task passes until it runs.
const STEPS: usize = 9;

/// What is shown at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// How many tasks are done.
    pub overall: String,
    /// A line for each task.
    pub tasks: Vec<TaskLine>,
    /// What is waited for, or how it ended.
    pub verify: Verify,
}

/// The last line of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Tasks are still on their way.
    #[default]
    Nothing,
    /// All tasks run; for this many more seconds they must go on.
    Stable(u64),
    /// Something else, in words.
    Words(String),
}

impl Verify {
    fn text(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Stable(0) => Some("Waiting to verify that tasks are stable...".into()),
            Self::Stable(seconds) => {
                let unit = if *seconds == 1 { "second" } else { "seconds" };
                Some(format!("Waiting {seconds} {unit} to verify that tasks are stable..."))
            }
            Self::Words(words) => Some(words.clone()),
        }
    }

    /// Whether one takes the place of the other in a log, where seconds are not counted.
    fn is_same(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Stable(_), Self::Stable(_)))
    }
}

/// One task: its label, its state or error, and how far it has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskLine {
    label: String,
    words: String,
    /// States passed, of [`STEPS`]; none for a task that is not on its way.
    step: Option<usize>,
}

impl TaskLine {
    /// The line of a task; without one, its place is not taken yet.
    pub fn new(label: impl Into<String>, task: Option<&Task>) -> Self {
        let label = label.into();
        let Some(task) = task else { return Self { label, ..Self::default() } };
        let status = &task.status;
        if !status.error.is_empty() {
            return Self { label, words: printable(&status.error).replace('\t', " "), step: None };
        }
        let step = match status.state {
            TaskState::New => Some(1),
            TaskState::Pending => Some(3),
            TaskState::Assigned => Some(4),
            TaskState::Accepted => Some(5),
            TaskState::Preparing => Some(6),
            TaskState::Ready => Some(7),
            TaskState::Starting => Some(8),
            TaskState::Running => Some(STEPS),
            _ => None,
        };
        Self { label, words: status.state.name().into(), step }
    }

    fn bare(&self) -> String {
        format!("{}: {}", self.label, self.words).trim_end().to_owned()
    }

    /// The line with a bar that fits, if one does.
    fn live(&self, width: usize) -> String {
        let Some(step) = self.step else { return self.bare() };
        let text = format!("{}: {:<9} ", self.label, self.words);
        // Brackets and the head of the arrow.
        let bar = width.saturating_sub(columns(&text) + 3).min(BAR_MAX);
        if bar < BAR_MIN {
            return self.bare();
        }
        let filled = bar * step / STEPS;
        format!("{text}[{}>{}]", "=".repeat(filled), " ".repeat(bar - filled))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
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

    /// Whether frames are drawn over one another, so that seconds may be counted.
    pub fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// Shows a frame in place of the one before.
    pub fn show(&mut self, frame: Frame) -> Result<(), Failure> {
        let text = match self.mode {
            _ if frame == self.shown => String::new(),
            Mode::Quiet => String::new(),
            Mode::Lines => lines(&self.shown, &frame),
            Mode::Live => {
                let (text, n_lines) = live(&frame, self.n_lines, size());
                self.n_lines = n_lines;
                text
            }
        };
        self.shown = frame;
        output::write(&text)
    }
}

fn size() -> Size {
    match terminal_size::terminal_size_of(std::io::stdout()) {
        Some((Width(columns), Height(rows))) if columns > 0 && rows > 0 => Size { columns: columns.into(), rows: rows.into() },
        _ => SIZE_DEFAULT,
    }
}

/// What changed, a line each.
fn lines(before: &Frame, now: &Frame) -> String {
    let mut text = String::new();
    if now.overall != before.overall {
        text.push_str(&format!("{}\n", now.overall));
    }
    let known: Vec<String> = before.tasks.iter().map(TaskLine::bare).collect();
    for line in now.tasks.iter().map(TaskLine::bare).filter(|line| !line.ends_with(':') && !known.contains(line)) {
        text.push_str(&format!("{line}\n"));
    }
    if let Some(words) = now.verify.text().filter(|_| !now.verify.is_same(&before.verify)) {
        text.push_str(&format!("verify: {words}\n"));
    }
    text
}

/// The frame drawn over the one before, which had that many lines.
fn live(frame: &Frame, n_before: usize, size: Size) -> (String, usize) {
    // A line as wide as the terminal would put the cursor into the next one on some.
    let width = size.columns.saturating_sub(1).max(1);
    let verify = frame.verify.text().map(|words| format!("verify: {words}"));
    // The cursor stands below the last line.
    let n_bars = size.rows.saturating_sub(2 + usize::from(verify.is_some()));
    let mut rows = vec![frame.overall.clone()];
    rows.extend(frame.tasks.iter().take(n_bars).map(|task| task.live(width)));
    rows.extend(verify);
    let mut text = if n_before > 0 { format!("\x1b[{n_before}A\x1b[J") } else { String::new() };
    for row in &rows {
        text.push_str(&shortened(row, width));
        text.push('\n');
    }
    (text, rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    fn frame(overall: &str, verify: Verify) -> Frame {
        Frame { overall: overall.into(), tasks: vec![TaskLine::new("1/1", Some(&sample::task()))], verify }
    }

    fn words(text: &str) -> Verify {
        Verify::Words(text.into())
    }

    #[test]
    fn lines_say_only_what_changed() {
        assert_eq!(lines(&Frame::default(), &frame("a", Verify::Nothing)), "a\n1/1: running\n");
        assert_eq!(lines(&frame("a", Verify::Nothing), &frame("a", words("b"))), "verify: b\n");
        assert_eq!(lines(&frame("a", words("b")), &frame("c", words("b"))), "c\n");
    }

    #[test]
    fn seconds_are_counted_on_a_terminal_only() {
        let [five, four] = [5, 4].map(|seconds| frame("a", Verify::Stable(seconds)));
        let sentence = "verify: Waiting 5 seconds to verify that tasks are stable...\n";
        assert_eq!(lines(&frame("a", Verify::Nothing), &five), sentence);
        assert_eq!(lines(&five, &four), "");
        assert!(live(&five, 0, SIZE_DEFAULT).0.ends_with(sentence));
        assert!(live(&four, 0, SIZE_DEFAULT).0.contains("Waiting 4 seconds to"));
        assert!(live(&frame("a", Verify::Stable(1)), 0, SIZE_DEFAULT).0.contains("Waiting 1 second to"));
    }

    #[test]
    fn a_live_frame_covers_the_one_before() {
        let (text, n_lines) = live(&frame("a", words("b")), 0, SIZE_DEFAULT);
        let bar = "=".repeat(50);
        assert_eq!((text, n_lines), (format!("a\n1/1: running   [{bar}>]\nverify: b\n"), 3));
        assert!(live(&frame("a", Verify::Nothing), 3, SIZE_DEFAULT).0.starts_with("\x1b[3A\x1b[J"));
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal_and_none_scrolls_away() {
        let mut failed = sample::task();
        failed.status.value.error = "task: non-zero exit (1): \x1b[31m it did not\nlike its configuration ".repeat(9);
        for n_columns in [1, 2, 10, 20, 30, 40, 66, 67, 79, 80, 200] {
            for n_rows in [1, 3, 5, 24] {
                let mut frame = frame("overall progress: rolling back update: 1 out of 20 tasks", words(&"見える".repeat(99)));
                frame.tasks.extend((0..BARS_MAX).map(|n| TaskLine::new(format!("node{n}"), Some(&failed))));
                frame.tasks.push(TaskLine::new("a-node-with-a-name-of-its-own", Some(&sample::task())));
                let (text, n_lines) = live(&frame, 0, Size { columns: n_columns, rows: n_rows });
                assert_eq!(text.lines().count(), n_lines);
                assert!(n_lines <= 2 || n_lines < n_rows, "{n_lines} lines on {n_rows} rows");
                let widest = text.lines().map(columns).max().expect("there are lines");
                assert!(widest < n_columns.max(2), "{widest} of {n_columns} columns: {text}");
                assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
        }
    }

    #[test]
    fn a_bar_takes_the_place_that_there_is() {
        let line = TaskLine::new("1/3", Some(&sample::task()));
        assert_eq!(line.live(79), format!("1/3: running   [{}>]", "=".repeat(50)));
        assert_eq!(line.live(30), format!("1/3: running   [{}>]", "=".repeat(12)));
        assert_eq!(line.live(20), "1/3: running");
        assert_eq!(TaskLine::new("2/3", None).live(79), "2/3:");
    }
}
