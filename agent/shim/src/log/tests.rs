//! What was written is read back, whatever the sizes, the streams and the files.

use super::*;
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;

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
