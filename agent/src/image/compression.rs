//! Undoing the compression of an archive, told by its first bytes and never by its name.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes of history a zstd frame may ask for; `zstd --long` uses as many.
const ZSTD_WINDOW_MAX: u64 = 128 << 20;

/// The plain bytes of `input`, which may be gzip, zstd or not compressed.
pub(super) fn decompress<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    // A short first buffer would hide the magic; all inputs here are BufReaders over files or
    // channels, so what is missing is read byte by byte and put back in front.
    let mut magic = Vec::with_capacity(6);
    (&mut input).take(6).read_to_end(&mut magic)?;
    let whole = io::Cursor::new(magic.clone()).chain(input);
    match magic.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Box::new(Zstd::new(whole))),
        // A skippable frame: how seekable zstd layers may begin.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Box::new(Zstd::new(whole))),
        [b'B', b'Z', b'h', ..] => Err(unsupported("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(unsupported("xz")),
        _ => Ok(Box::new(whole)),
    }
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{name} compression is not supported, only gzip and zstd"))
}

/// All frames of a zstd stream, one after the other; skippable frames are skipped.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_MAX);
        Self { input, decoder, in_frame: false }
    }

    /// Goes to the next frame with content; false at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1)).map_err(invalid)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.in_frame = false,
                n => return Ok(n),
            }
        }
    }
}

fn invalid(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"the same bytes, whatever they were packed in";

    fn check(packed: &[u8]) {
        let mut plain = Vec::new();
        decompress(packed).expect("a known format").read_to_end(&mut plain).expect("sound input");
        assert_eq!(plain, TEXT);
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn plain_gzip_and_zstd_are_told_by_their_bytes() {
        let (head, tail) = TEXT.split_at(10);
        check(TEXT);
        check(&gzip(TEXT));
        check(&[gzip(head), gzip(tail)].concat());
        check(&zstd(TEXT));
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        check(&[skippable.clone(), zstd(head), skippable, zstd(tail)].concat());
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_an_error() {
        for packed in [gzip(TEXT), zstd(TEXT)] {
            let short = &packed[..packed.len() - 9];
            let result = decompress(short).and_then(|mut plain| plain.read_to_end(&mut Vec::new()));
            assert!(result.is_err());
        }
        assert!(decompress(&b"BZh91AY"[..]).is_err());
    }
}
