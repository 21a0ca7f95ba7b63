//! One task's log, read line by line.

use super::watch::{Signal, Watches};
use crate::runtime::TaskFolder;
use skep_proto::v1::LogOptions;
use skep_shim::log::{Line, LineJoiner, LogError, LogReader, Position, Record, Stream};
use std::collections::VecDeque;
use std::sync::Arc;

/// Records read at once.
const RECORDS_MAX: usize = 512;

/// What a reader has to say next, in the order in which it was written.
#[derive(Debug)]
pub enum Item {
    /// A whole line, or a piece of one that is longer than any line should be.
    Line(Line),
    /// Why the log is incomplete here.
    Warning(String),
}

/// The reader of a task's log.
#[derive(Debug)]
pub struct Reading {
    folder: TaskFolder,
    options: LogOptions,
    /// Where it goes on; none before its first read.
    position: Option<Position>,
    /// Whole lines that begin before the last ones that were asked for.
    n_skipped: usize,
    joiner: LineJoiner,
    items: VecDeque<Item>,
    /// Everything that is in the files was read.
    pub is_at_end: bool,
    /// Nothing will be written any more, and everything was read.
    pub is_over: bool,
}

impl Reading {
    /// A reader of the log in a task's folder, which need not exist yet.
    pub fn new(folder: TaskFolder, options: LogOptions) -> Self {
        Self {
            folder,
            options,
            position: None,
            n_skipped: 0,
            joiner: LineJoiner::default(),
            items: VecDeque::new(),
            is_at_end: false,
            is_over: false,
        }
    }

    /// Whether there was something to read.
    pub fn has_begun(&self) -> bool {
        self.position.is_some()
    }

    /// The time of the next item; a warning comes at once.
    pub fn head(&self) -> Option<u64> {
        self.items.front().map(|item| match item {
            Item::Line(line) => line.at_ns,
            Item::Warning(_) => 0,
        })
    }

    /// Takes the next item.
    pub fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Watches what there is of the task's folders, so that a later change marks `reader`.
    pub fn watch(&self, watches: &Watches, signal: &Arc<Signal>, reader: usize) -> std::io::Result<()> {
        let mut is_here = watches.watch(self.folder.path(), signal, reader)?;
        if let Some(above) = self.folder.path().parent().filter(|_| !is_here) {
            watches.watch(above, signal, reader)?;
            // It may have come just before.
            is_here = watches.watch(self.folder.path(), signal, reader)?;
        }
        if is_here {
            watches.watch(&self.folder.log(), signal, reader)?;
        }
        Ok(())
    }

    /// Reads on until there is an item or the end. Blocks.
    pub fn refill(&mut self) -> Result<(), LogError> {
        // Looked at before the read: what was written before the end is read after it. The log's folder is made after the
        // writable layer's.
        let is_ended = self.folder.log().exists() && !self.folder.upper().exists();
        let reader = LogReader::new(&self.folder.log());
        let mut position = match self.position {
            Some(position) => position,
            None => self.start(&reader)?,
        };
        self.is_at_end = false;
        while self.items.is_empty() && !self.is_at_end {
            let batch = reader.read(position, RECORDS_MAX)?;
            if batch.gap {
                let reason = "lines were removed to make room before they were read";
                self.items.push_back(Item::Warning(reason.into()));
                self.joiner = LineJoiner::default();
            }
            if batch.n_damaged > 0 {
                self.items.push_back(Item::Warning(format!("{} damaged lines were left out", batch.n_damaged)));
            }
            self.is_at_end = batch.next == position;
            position = batch.next;
            self.take(batch.records);
        }
        self.position = Some(position);
        if self.is_at_end && (is_ended || !self.options.follow) {
            // A line that nobody will end.
            let rest: Vec<Line> = self.joiner.finish();
            rest.into_iter().for_each(|line| self.add(line));
            self.is_over = true;
        }
        Ok(())
    }

    fn start(&mut self, reader: &LogReader) -> Result<Position, LogError> {
        match (usize::try_from(self.options.tail), self.options.since) {
            (Ok(n), _) => {
                let (position, n_skipped) = reader.tail_lines(n)?;
                self.n_skipped = n_skipped;
                Ok(position)
            }
            (Err(_), Some(since)) => reader.since(since),
            (Err(_), None) => Ok(Position::default()),
        }
    }

    fn take(&mut self, records: Vec<Record>) {
        for record in records {
            if let Some(line) = self.joiner.push(record) {
                self.add(line);
            }
        }
    }

    fn add(&mut self, line: Line) {
        if self.n_skipped > 0 {
            self.n_skipped -= usize::from(!line.partial);
        } else if is_wanted(&line, self.options) {
            self.items.push_back(Item::Line(line));
        }
    }
}

fn is_wanted(line: &Line, options: LogOptions) -> bool {
    let all = !options.stdout && !options.stderr;
    let is_stream = all || if line.stream == Stream::Stdout { options.stdout } else { options.stderr };
    is_stream && options.since.is_none_or(|since| line.at_ns >= since) && options.until.is_none_or(|until| line.at_ns <= until)
}
