//! The writing side: batches of records, files that follow each other, and losses that are recorded.

use super::{LogError, Stream, fail, file_path, now_ns, numbers};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
            let _ = writeln!(head, "{} e F skep: {} log records were lost", now_ns(), self.lost);
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
