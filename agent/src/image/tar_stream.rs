//! Reading a tar archive from front to back, in bounded memory.
//!
//! Archives come from strangers: a header that announces a path of ten gigabytes must cost
//! nothing. So extension headers (PAX, GNU long names) are read here, with a limit, and every
//! checksum is verified. Paths are handed out as they stand; who unpacks must judge them.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK: usize = 512;
/// Bytes all extensions of one member may have.
const EXTENSIONS_MAX: u64 = 1 << 20;

/// One member of an archive, without its content.
pub(super) struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content that follow.
    pub size: u64,
    pub device: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An archive being read. Call [`TarStream::next`], then read the member's content from the
/// stream itself; what is left unread is skipped.
pub(super) struct TarStream<R> {
    input: R,
    left: u64,
    padding: u64,
    done: bool,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, done: false }
    }

    /// The next member, or none at the end-of-archive mark. An input that ends without the mark
    /// is cut short, and an error.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extensions = Extensions::default();
        let mut n_extension_bytes = 0;
        loop {
            self.skip_content()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size()?;
            let is_extension =
                matches!(kind, EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader);
            if !is_extension {
                return self.member(&header, kind, size, extensions).map(Some);
            }
            n_extension_bytes += size;
            if n_extension_bytes > EXTENSIONS_MAX {
                return Err(invalid("the extended headers of one member exceed 1 MiB"));
            }
            self.expect_content(size);
            let mut bytes = Vec::new();
            Read::read_to_end(self, &mut bytes)?;
            if bytes.len() as u64 != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match kind {
                EntryType::GNULongName => extensions.path = Some(until_nul(bytes)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(bytes)),
                EntryType::XHeader => extensions.read_pax(&bytes)?,
                // Global headers carry comments (a commit id, by git archive) and nothing we use.
                _ => {}
            }
        }
    }

    /// Reads whatever follows the end of the archive, so that a digest covers all bytes.
    pub(super) fn drain(mut self) -> io::Result<R> {
        self.skip_content()?;
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(self.input)
    }

    fn member(&mut self, header: &Header, kind: EntryType, size: u64, extensions: Extensions) -> io::Result<Member> {
        if kind == EntryType::GNUSparse {
            return Err(invalid("sparse files are not supported"));
        }
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let size = if is_file { extensions.size.unwrap_or(size) } else { size };
        self.expect_content(size);
        let old = header.as_old();
        let id = |from_pax: Option<u64>, from_header: io::Result<u64>| -> io::Result<u32> {
            u32::try_from(from_pax.map_or(from_header, Ok)?).map_err(|_| invalid("an owner's id is over 32 bits"))
        };
        let seconds = or_blank(&old.mtime, header.mtime())?;
        Ok(Member {
            path: extensions.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: extensions.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            kind,
            mode: or_blank(&old.mode, header.mode())? & 0o7777,
            uid: id(extensions.uid, or_blank(&old.uid, header.uid()))?,
            gid: id(extensions.gid, or_blank(&old.gid, header.gid()))?,
            // Base-256 fields hold negative times in two's complement.
            mtime: extensions.mtime.unwrap_or((seconds as i64, 0)),
            size,
            device: (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0)),
            xattrs: extensions.xattrs,
        })
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.left.checked_add(self.padding).ok_or_else(|| invalid("a member's size is impossible"))?;
        self.left = 0;
        self.padding = 0;
        if io::copy(&mut (&mut self.input).take(rest), &mut io::sink())? != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn read_header(&mut self) -> io::Result<Option<Header>> {
        if self.done {
            return Ok(None);
        }
        let mut header = Header::new_old();
        self.input.read_exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.done = true;
            return Ok(None);
        }
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(invalid("a header's checksum is wrong: this is no tar archive, or a damaged one"));
        }
        Ok(Some(header))
    }
}

impl<R: Read> Read for TarStream<R> {
    /// The content of the current member.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.input.read(&mut buffer[..want])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

impl Extensions {
    fn read_pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.mtime = Some(timestamp(value)?),
                key if key.starts_with(b"GNU.sparse.") => return Err(invalid("sparse files are not supported")),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Some writers leave a number they do not care about blank.
fn or_blank<T: Default>(field: &[u8], value: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { value }
}

fn number(value: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("an extended header has no number where one belongs"))
}

/// `[-]SECONDS[.FRACTION]`; a fraction always counts forward.
fn timestamp(value: &[u8]) -> io::Result<(i64, u32)> {
    let bad = || invalid("an extended header has a malformed time");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let mut nanos = 0;
    for i in 0..9 {
        let digit = fraction.as_bytes().get(i).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(bad());
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    if whole.starts_with('-') && nanos > 0 {
        return Ok((seconds.checked_sub(1).ok_or_else(bad)?, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().expect("memory")
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).expect("memory");
    }

    #[test]
    fn members_come_in_order_with_long_names_and_attributes() {
        let long = "d/".repeat(100) + "f";
        let bytes = archive(|builder| {
            file(builder, "a", b"one");
            file(builder, &long, &[7; 600]);
            builder
                .append_pax_extensions([("SCHILY.xattr.user.x", &b"y"[..]), ("mtime", b"-1.25"), ("size", b"3")])
                .expect("memory");
            file(builder, "p", b"two");
        });
        let mut stream = TarStream::new(bytes.as_slice());
        assert_eq!(stream.next().expect("sound").expect("a").path, b"a");
        let member = stream.next().expect("sound").expect("long");
        assert_eq!((member.path, member.size), (long.into_bytes(), 600));
        let member = stream.next().expect("sound").expect("p");
        assert_eq!(member.mtime, (-2, 750_000_000));
        assert_eq!(member.xattrs[&b"user.x"[..]], b"y");
        let mut content = Vec::new();
        stream.read_to_end(&mut content).expect("sound");
        assert_eq!(content, b"two");
        assert!(stream.next().expect("sound").is_none());
    }

    #[test]
    fn a_huge_extension_costs_nothing_and_a_short_archive_is_an_error() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        assert!(TarStream::new(&header.as_bytes()[..]).next().is_err());
        let bytes = archive(|builder| file(builder, "a", &[1; 700]));
        for cut in [1, 511, 512, 900, 1100, 1536] {
            let mut stream = TarStream::new(&bytes[..cut]);
            let mut read = || -> io::Result<()> {
                while stream.next()?.is_some() {}
                Ok(())
            };
            assert!(read().is_err(), "cut at {cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            let mut stream = TarStream::new(bytes.as_slice());
            while let Ok(Some(_)) = stream.next() {}
        }
    }
}
