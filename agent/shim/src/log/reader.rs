//! The reading side: from a position, a time, or so many lines before the end.

use super::{LogError, Position, Record, Stream, TEXT_MAX, fail, file_path, numbers};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

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
