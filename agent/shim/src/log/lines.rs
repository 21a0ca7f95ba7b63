//! Between lines and records: what a task writes is cut into records, and these are put together again.

use super::{LogWriter, Record, Stream, TEXT_MAX};

/// Cuts one stream of bytes into records.
pub struct LineCutter {
    stream: Stream,
    rest: Vec<u8>,
}

impl LineCutter {
    /// For one output of a task.
    pub fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes what was read and adds every line that became whole, or too long, to the writer's batch.
    pub fn push(&mut self, writer: &mut LogWriter, at_ns: u64, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(writer, at_ns, &bytes[..end]);
            writer.push(at_ns, self.stream, false, &self.rest);
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(writer, at_ns, bytes);
    }

    /// At the end of the stream: what has no newline is a line all the same.
    pub fn finish(&mut self, writer: &mut LogWriter, at_ns: u64) {
        if !self.rest.is_empty() {
            writer.push(at_ns, self.stream, false, &self.rest);
            self.rest.clear();
        }
    }

    fn extend(&mut self, writer: &mut LogWriter, at_ns: u64, mut bytes: &[u8]) {
        while self.rest.len() + bytes.len() > TEXT_MAX {
            let (now, later) = bytes.split_at(TEXT_MAX - self.rest.len());
            self.rest.extend_from_slice(now);
            writer.push(at_ns, self.stream, true, &self.rest);
            self.rest.clear();
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
    }
}

/// The longest line that is put together; a longer one leaves in pieces of this size.
pub const LINE_MAX: usize = 1 << 20;

/// A whole line of one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its last part was written, in nanoseconds since the Unix epoch: the order of lines is that of their ends.
    pub at_ns: u64,
    /// Where it was written.
    pub stream: Stream,
    /// A piece of a line longer than [`LINE_MAX`], which goes on in the stream's next one.
    pub partial: bool,
    /// Without the newline.
    pub text: Vec<u8>,
}

/// Puts the records of a log together to lines again.
#[derive(Debug, Default)]
pub struct LineJoiner {
    rest: [Vec<u8>; 2],
    at_ns: u64,
}

impl LineJoiner {
    /// Takes the next record; the line that it ends, or fills.
    pub fn push(&mut self, record: Record) -> Option<Line> {
        let Record { at_ns, stream, partial, text } = record;
        let rest = &mut self.rest[usize::from(stream == Stream::Stderr)];
        self.at_ns = at_ns;
        if rest.is_empty() && !partial {
            return Some(Line { at_ns, stream, partial, text });
        }
        rest.extend_from_slice(&text);
        if partial && rest.len() < LINE_MAX {
            return None;
        }
        Some(Line { at_ns, stream, partial, text: std::mem::take(rest) })
    }

    /// At the end of a log: what has no end is a line all the same.
    pub fn finish(&mut self) -> Vec<Line> {
        let at_ns = self.at_ns;
        let streams = [Stream::Stdout, Stream::Stderr].into_iter().zip(self.rest.iter_mut());
        let open = streams.filter(|(_, rest)| !rest.is_empty());
        open.map(|(stream, rest)| Line { at_ns, stream, partial: false, text: std::mem::take(rest) }).collect()
    }
}
