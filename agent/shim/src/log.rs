//! A task's output on disk: the shim writes it, the agent reads it, neither needs the other.
//!
//! A log is a folder of numbered files, `000001.log` and up; the highest is being written, and the oldest are removed
//! when there are too many. Files are never renamed, so a [`Position`] (file number, byte offset) stays true until its
//! file is removed, and a follower needs only a watch on the folder.
//!
//! One record is one line: `NANOSECONDS STREAM FLAG TEXT\n` with stream `o` or `e` and flag `F` (the line is whole) or
//! `P` (it goes on in the next record of that stream). Text is the task's bytes; it holds no newline. Writes are
//! batched and never synced: what the kernel took survives the death of every process, and that is the promise.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
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

/// The writing side; only the shim has one.
pub struct LogWriter {
    dir: PathBuf,
    max_file_bytes: u64,
    max_files: u32,
    number: u64,
    file: File,
    size: u64,
    batch: Vec<u8>,
    lost: u64,
}

impl LogWriter {
    /// Opens the log of a folder at its end; the folder is made when missing, its files are 0600.
    pub fn open(dir: &Path, max_file_bytes: u64, max_files: u32) -> Result<Self, LogError> {
        fs::create_dir_all(dir).map_err(fail("create", dir))?;
        // Always a file of its own: a record torn by a crash ends the former one and cannot swallow a new record.
        let number = numbers(dir)?.last().map_or(1, |last| last + 1);
        let mut writer = Self {
            dir: dir.to_owned(),
            max_file_bytes: max_file_bytes.max(1),
            max_files: max_files.max(1),
            number,
            file: create(&file_path(dir, number))?,
            size: 0,
            batch: Vec::new(),
            lost: 0,
        };
        writer.drop_oldest()?;
        Ok(writer)
    }

    /// Adds a record to the batch. `text` holds no newline and at most [`TEXT_MAX`] bytes.
    pub fn push(&mut self, at_ns: u64, stream: Stream, partial: bool, text: &[u8]) {
        let stream = match stream {
            Stream::Stdout => 'o',
            Stream::Stderr => 'e',
        };
        let flag = if partial { 'P' } else { 'F' };
        // Writing to a vector cannot fail.
        let _ = write!(self.batch, "{at_ns} {stream} {flag} ");
        self.batch.extend_from_slice(text);
        self.batch.push(b'\n');
    }

    /// Hands the batch to the kernel. A batch that cannot be written is counted as lost, and the loss is recorded in
    /// the log by the next batch that can; the task never waits for a full disk.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // Without a next file the present one grows: a long file is better than a lost line.
        let rotated = match self.size >= self.max_file_bytes {
            true => self.rotate(),
            false => Ok(()),
        };
        let batch = std::mem::take(&mut self.batch);
        let n_records = batch.iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut head = Vec::new();
        if self.lost > 0 {
            let _ = writeln!(head, "{} e F skep: {} log records were lost", crate::log::now_ns(), self.lost);
        }
        let result = self.file.write_all(&head).and_then(|()| self.file.write_all(&batch));
        match result {
            Ok(()) => {
                self.size += (head.len() + batch.len()) as u64;
                self.lost = 0;
            }
            Err(source) => {
                self.lost += n_records;
                // Half a batch may be there: cut it off, so that the next begins on a line of its own.
                let path = file_path(&self.dir, self.number);
                self.file.set_len(self.size).map_err(fail("truncate", &path))?;
                return Err(LogError { verb: "write to", path, source });
            }
        }
        self.batch = batch;
        self.batch.clear();
        rotated
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        self.file = create(&file_path(&self.dir, self.number + 1))?;
        self.number += 1;
        self.size = 0;
        self.drop_oldest()
    }

    fn drop_oldest(&mut self) -> Result<(), LogError> {
        let numbers = numbers(&self.dir)?;
        let n_extra = numbers.len().saturating_sub(self.max_files as usize);
        for number in &numbers[..n_extra] {
            let path = file_path(&self.dir, *number);
            fs::remove_file(&path).map_err(fail("remove", &path))?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<File, LogError> {
    File::options().append(true).create_new(true).mode(0o600).open(path).map_err(fail("create", path))
}

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

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

/// What one read found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order they were written.
    pub records: Vec<Record>,
    /// Where to go on. Equal to where the read began when nothing new was there: await a change of the folder.
    pub next: Position,
    /// Lines that are no records.
    pub n_damaged: usize,
    /// Whether files between the position asked for and the first kept one were removed.
    pub gap: bool,
}

/// The reading side of a log folder.
#[derive(Debug, Clone)]
pub struct LogReader {
    dir: PathBuf,
}

impl LogReader {
    /// A reader of a folder, which need not exist yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// At most `max_records` (and some 256 KiB) from `from` on, over file borders. A line still being written is left
    /// for the next read.
    pub fn read(&self, from: Position, max_records: usize) -> Result<Batch, LogError> {
        const BYTES_MAX: usize = 256 << 10;
        let mut batch = Batch { next: from, ..Batch::default() };
        let (mut n_bytes, mut has_begun) = (0, false);
        for number in numbers(&self.dir)?.into_iter().filter(|number| *number >= from.file) {
            if number != batch.next.file {
                // Either the file that was being read is gone, with what was not read of it, or one after it is.
                batch.gap |= batch.next.file != 0 && (number > batch.next.file + 1 || !has_begun);
                batch.next = Position { file: number, offset: 0 };
            }
            has_begun = true;
            let Some(mut lines) = self.lines(batch.next)? else { continue };
            while let Some((line, next)) = lines.next_line()? {
                n_bytes += line.len();
                match parse(&line) {
                    Some(record) => batch.records.push(record),
                    None => batch.n_damaged += 1,
                }
                batch.next = next;
                if batch.records.len() >= max_records || n_bytes >= BYTES_MAX {
                    return Ok(batch);
                }
            }
        }
        Ok(batch)
    }

    /// Where the last `n` whole lines begin, and how many whole lines of the log end after that place and before the first
    /// of them (of a stream whose line was being written meanwhile). 0 means the end of the log.
    pub fn tail_lines(&self, n: usize) -> Result<(Position, usize), LogError> {
        let numbers = numbers(&self.dir)?;
        if n == 0 {
            return Ok((self.end(&numbers)?, 0));
        }
        let (mut n_ends, mut first) = (0, 0);
        for (at, number) in numbers.iter().enumerate().rev() {
            first = at;
            let Some(mut lines) = self.lines(Position { file: *number, offset: 0 })? else { continue };
            while let Some((line, _)) = lines.next_line()? {
                n_ends += usize::from(parse(&line).is_some_and(|record| !record.partial));
            }
            if n_ends >= n {
                break;
            }
        }
        match self.window(&numbers[first..], n, first == 0)? {
            Some(window) => Ok(window),
            // One of them began before these files.
            None => Ok(self.window(&numbers, n, true)?.unwrap_or_default()),
        }
    }

    /// The beginning of the last `n` lines of some files, and how many others end within; none when one of them may have
    /// begun before these files.
    fn window(&self, numbers: &[u64], n: usize, is_all: bool) -> Result<Option<(Position, usize)>, LogError> {
        // Where each line begins and where it ends.
        let mut window: VecDeque<(Position, Position)> = VecDeque::new();
        // The end of each stream's first line: its beginning is not known.
        let mut first_ends: [Option<Position>; 2] = [None; 2];
        let mut begun: [Option<Position>; 2] = [None; 2];
        for number in numbers {
            let mut at = Position { file: *number, offset: 0 };
            let Some(mut lines) = self.lines(at)? else { continue };
            while let Some((line, next)) = lines.next_line()? {
                if let Some(record) = parse(&line) {
                    let stream = usize::from(record.stream == Stream::Stderr);
                    let begun = &mut begun[stream];
                    let begin = *begun.get_or_insert(at);
                    if !record.partial {
                        *begun = None;
                        first_ends[stream].get_or_insert(at);
                        window.push_back((begin, at));
                    }
                }
                at = next;
                if window.len() > n {
                    window.pop_front();
                }
            }
        }
        if !is_all && window.iter().any(|(_, end)| first_ends.contains(&Some(*end))) {
            return Ok(None);
        }
        let first = window.iter().map(|(begin, _)| *begin).min();
        let (Some(first), Some((_, first_end))) = (first, window.front().copied()) else {
            return Ok(Some((Position::default(), 0)));
        };
        Ok(Some((first, self.n_ends_between(numbers, first, first_end)?)))
    }

    fn n_ends_between(&self, numbers: &[u64], from: Position, to: Position) -> Result<usize, LogError> {
        let mut n_ends = 0;
        for number in numbers.iter().filter(|number| (from.file..=to.file).contains(number)) {
            let offset = if *number == from.file { from.offset } else { 0 };
            let mut at = Position { file: *number, offset };
            let Some(mut lines) = self.lines(at)? else { continue };
            while let Some((line, next)) = lines.next_line()?.filter(|_| at < to) {
                n_ends += usize::from(parse(&line).is_some_and(|record| !record.partial));
                at = next;
            }
        }
        Ok(n_ends)
    }

    fn end(&self, numbers: &[u64]) -> Result<Position, LogError> {
        let Some(last) = numbers.last() else { return Ok(Position::default()) };
        let mut at = Position { file: *last, offset: 0 };
        if let Some(mut lines) = self.lines(at)? {
            while let Some((_, next)) = lines.next_line()? {
                at = next;
            }
        }
        Ok(at)
    }

    /// The texts of the last `n` records, at most some 256 KiB from the end of the newest file: what a failed task says of
    /// itself, read in one short step whatever the size of the log.
    pub fn last_texts(&self, n: usize) -> Result<Vec<Vec<u8>>, LogError> {
        const BYTES_MAX: u64 = 256 << 10;
        let mut texts = VecDeque::new();
        for number in numbers(&self.dir)?.into_iter().rev() {
            let path = file_path(&self.dir, number);
            let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let at = Position { file: number, offset: size.saturating_sub(BYTES_MAX) };
            let Some(mut lines) = self.lines(at)? else { continue };
            let mut found = Vec::new();
            while let Some((line, _)) = lines.next_line()? {
                // The first is cut off in front, most likely, and then no record.
                found.extend(parse(&line).map(|record| record.text));
            }
            found.into_iter().rev().for_each(|text| texts.push_front(text));
            if texts.len() >= n || size > BYTES_MAX {
                break;
            }
        }
        Ok(texts.split_off(texts.len().saturating_sub(n)).into())
    }

    /// Where the first record at or after a time begins; the end of the log when there is none.
    pub fn since(&self, at_ns: u64) -> Result<Position, LogError> {
        let numbers = numbers(&self.dir)?;
        // A file's last record is at least as old as the next file's first: begin in the last that starts before.
        let mut begin = Position::default();
        for number in &numbers {
            let at = Position { file: *number, offset: 0 };
            let Some(mut lines) = self.lines(at)? else { continue };
            match lines.next_line()?.and_then(|(line, _)| parse(&line)) {
                Some(record) if record.at_ns >= at_ns => break,
                _ => begin = at,
            }
        }
        let first = begin.file;
        for number in numbers.into_iter().filter(|number| *number >= first) {
            if number != begin.file {
                begin = Position { file: number, offset: 0 };
            }
            let Some(mut lines) = self.lines(begin)? else { continue };
            while let Some((line, next)) = lines.next_line()? {
                if parse(&line).is_some_and(|record| record.at_ns >= at_ns) {
                    return Ok(begin);
                }
                begin = next;
            }
        }
        Ok(begin)
    }

    /// None when the file was removed meanwhile.
    fn lines(&self, at: Position) -> Result<Option<Lines>, LogError> {
        let path = file_path(&self.dir, at.file);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail("open", &path))?,
        };
        file.seek(SeekFrom::Start(at.offset)).map_err(fail("seek in", &path))?;
        Ok(Some(Lines { path, at, reader: BufReader::with_capacity(64 << 10, file) }))
    }
}

struct Lines {
    path: PathBuf,
    at: Position,
    reader: BufReader<File>,
}

impl Lines {
    /// The next whole line without its newline, and where the one after it begins.
    fn next_line(&mut self) -> Result<Option<(Vec<u8>, Position)>, LogError> {
        // A record is bounded; what is longer is damage, and is taken in pieces rather than into memory.
        const LINE_MAX: u64 = TEXT_MAX as u64 + 64;
        let mut line = Vec::new();
        let n = (&mut self.reader).take(LINE_MAX).read_until(b'\n', &mut line).map_err(fail("read", &self.path))?;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if (n as u64) < LINE_MAX {
            return Ok(None);
        }
        self.at.offset += n as u64;
        Ok(Some((line, self.at)))
    }
}

fn parse(line: &[u8]) -> Option<Record> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at_ns = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"o" => Stream::Stdout,
        b"e" => Stream::Stderr,
        _ => return None,
    };
    let partial = match parts.next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Record { at_ns, stream, partial, text: parts.next()?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(reader: &LogReader) -> Vec<Record> {
        let (mut at, mut records) = (Position::default(), Vec::new());
        loop {
            let batch = reader.read(at, 7).unwrap();
            if batch.next == at {
                return records;
            }
            assert_eq!((batch.n_damaged, batch.gap), (0, false));
            at = batch.next;
            records.extend(batch.records);
        }
    }

    proptest! {
        #[test]
        fn what_a_task_wrote_is_read_back(pieces: Vec<Vec<u8>>, max_file_bytes in 1u64..200) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = LogWriter::open(dir.path(), max_file_bytes, 100_000).unwrap();
            let mut cutter = LineCutter::new(Stream::Stdout);
            for piece in &pieces {
                cutter.push(&mut writer, 5, piece);
                writer.flush().unwrap();
            }
            cutter.finish(&mut writer, 6);
            writer.flush().unwrap();
            let written: Vec<u8> = pieces.concat();
            let mut lines: Vec<&[u8]> = written.split(|byte| *byte == b'\n').collect();
            if lines.last().is_some_and(|last| last.is_empty()) {
                lines.pop();
            }
            let read: Vec<Vec<u8>> = all(&LogReader::new(dir.path())).into_iter().map(|r| r.text).collect();
            prop_assert_eq!(read, lines);
        }

        #[test]
        fn tail_and_since_begin_at_the_right_line(n_lines in 0u64..60, n in 0usize..70, max_file_bytes in 1u64..200) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = LogWriter::open(dir.path(), max_file_bytes, 100_000).unwrap();
            for line in 0..n_lines {
                writer.push(line * 10, Stream::Stderr, line % 5 == 0, line.to_string().as_bytes());
                writer.flush().unwrap();
            }
            let reader = LogReader::new(dir.path());
            let from = |at| reader.read(at, 1000).unwrap().records;
            let n_whole = |records: &[Record]| records.iter().filter(|r| !r.partial).count();
            let whole = n_whole(&from(Position::default()));
            let (tail, n_before) = reader.tail_lines(n).unwrap();
            prop_assert_eq!((n_whole(&from(tail)), n_before), (n.min(whole), 0));
            let since = from(reader.since(95).unwrap());
            prop_assert_eq!(since.len() as u64, n_lines.saturating_sub(10));
        }
    }

    proptest! {
        #[test]
        fn the_last_lines_are_whole_whatever_the_streams_and_files(
            parts in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..60),
            n in 1usize..70,
            max_file_bytes in 1u64..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = LogWriter::open(dir.path(), max_file_bytes, 100_000).unwrap();
            for (at, (is_error, partial)) in parts.iter().enumerate() {
                let stream = if *is_error { Stream::Stderr } else { Stream::Stdout };
                writer.push(at as u64, stream, *partial, format!("{at},").as_bytes());
                writer.flush().unwrap();
            }
            let reader = LogReader::new(dir.path());
            let lines = |at, n_skipped: usize| {
                let mut joiner = LineJoiner::default();
                let records = reader.read(at, 1000).unwrap().records;
                records.into_iter().filter_map(|record| joiner.push(record)).skip(n_skipped).collect::<Vec<_>>()
            };
            let all = lines(Position::default(), 0);
            let (at, n_skipped) = reader.tail_lines(n).unwrap();
            prop_assert_eq!(lines(at, n_skipped), all[all.len().saturating_sub(n)..].to_vec());
        }
    }

    #[test]
    fn a_line_is_put_together_and_an_endless_one_leaves_in_pieces() {
        let mut joiner = LineJoiner::default();
        let record = |stream, partial, text: &[u8]| Record { at_ns: 1, stream, partial, text: text.to_vec() };
        assert_eq!(joiner.push(record(Stream::Stdout, true, b"a")), None);
        assert_eq!(joiner.push(record(Stream::Stderr, false, b"b")).unwrap().text, b"b");
        assert_eq!(joiner.push(record(Stream::Stdout, false, b"c")).unwrap().text, b"ac");
        let piece = vec![b'x'; TEXT_MAX];
        let lines: Vec<Line> = (0..130).filter_map(|_| joiner.push(record(Stream::Stdout, true, &piece))).collect();
        assert!(lines.iter().all(|line| line.partial && line.text.len() == LINE_MAX) && lines.len() == 2);
        assert_eq!(joiner.finish()[0].text.len(), 2 * TEXT_MAX);
        assert_eq!(joiner.finish(), []);
    }

    #[test]
    fn the_last_texts_come_in_order_from_the_newest_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), 1, 100).unwrap();
        let reader = LogReader::new(dir.path());
        assert_eq!(reader.last_texts(3).unwrap(), Vec::<Vec<u8>>::new());
        for line in 0..6u8 {
            writer.push(1, Stream::Stdout, false, &[b'0' + line]);
            writer.flush().unwrap();
        }
        assert_eq!(reader.last_texts(3).unwrap(), [b"3", b"4", b"5"]);
    }

    #[test]
    fn old_files_go_and_the_reader_notices() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), 1, 2).unwrap();
        let reader = LogReader::new(dir.path());
        for line in 0..6u8 {
            writer.push(1, Stream::Stdout, false, &[b'0' + line]);
            writer.flush().unwrap();
        }
        let batch = reader.read(Position { file: 1, offset: 0 }, 100).unwrap();
        let texts: Vec<_> = batch.records.iter().map(|r| r.text.as_slice()).collect();
        assert_eq!(texts, [b"4", b"5"]);
        assert!(batch.gap);
    }

    #[test]
    fn a_torn_line_waits_and_damage_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), 1000, 2).unwrap();
        writer.push(1, Stream::Stdout, false, b"whole");
        writer.flush().unwrap();
        let mut file = File::options().append(true).open(file_path(dir.path(), 1)).unwrap();
        file.write_all(b"rubbish\n2 o F to").unwrap();
        let reader = LogReader::new(dir.path());
        let batch = reader.read(Position::default(), 100).unwrap();
        assert_eq!((batch.records.len(), batch.n_damaged), (1, 1));
        file.write_all(b"rn\n").unwrap();
        let batch = reader.read(batch.next, 100).unwrap();
        assert_eq!(batch.records[0].text, b"torn");
    }

    #[test]
    fn a_long_line_is_cut_into_partial_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), 1 << 20, 2).unwrap();
        let mut cutter = LineCutter::new(Stream::Stdout);
        cutter.push(&mut writer, 1, &[b'x'; TEXT_MAX + 3]);
        cutter.push(&mut writer, 1, b"y\n");
        writer.flush().unwrap();
        let read: Vec<_> = all(&LogReader::new(dir.path())).iter().map(|r| (r.partial, r.text.len())).collect();
        assert_eq!(read, [(true, TEXT_MAX), (false, 4)]);
    }
}
