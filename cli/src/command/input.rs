//! Values from files, standard input and the terminal, held so that they vanish.

use crate::failure::Failure;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use zeroize::Zeroizing;

/// The longest line that is read without being shown, in bytes.
const LINE_MAX: usize = 1024;

/// Reads a value from a file, or from standard input for `-`. It must not be
/// empty and must have fewer than `max` bytes; `what` names it in errors.
pub fn value(what: &str, path: &str, max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let value = match path {
        "-" => read(what, "standard input", &mut unbuffered()?, max)?,
        path => {
            let mut file = std::fs::File::open(path)
                .map_err(|error| Failure::refused(format!("cannot open the file {path} with the {what}: {error}")))?;
            read(what, path, &mut file, max)?
        }
    };
    if value.is_empty() {
        return Err(Failure::refused(format!("the {what} is empty: give at least one byte")));
    }
    Ok(value)
}

/// Standard input without a buffer of the library's, in which a copy would stay.
fn unbuffered() -> Result<std::fs::File, Failure> {
    let descriptor = std::io::stdin().as_fd().try_clone_to_owned();
    descriptor.map(std::fs::File::from).map_err(|error| Failure::refused(format!("cannot read standard input: {error}")))
}

fn read(what: &str, name: &str, source: &mut impl Read, max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // One allocation of the full size: growing would leave copies behind.
    let mut buffer = Zeroizing::new(vec![0; max]);
    let mut length = 0;
    while length < max {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::refused(format!("cannot read the {what} from {name}: {error}"))),
        }
    }
    if length >= max {
        let limit = max / 1024;
        return Err(Failure::refused(format!("the {what} in {name} is too large: it must have less than {limit} KiB")));
    }
    Ok(Zeroizing::new(buffer[..length].to_vec()))
}

/// Reads one line: from the terminal without showing it, else from standard input.
pub fn hidden_line(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let hidden = if std::io::stdin().is_terminal() {
        eprint!("{prompt}");
        std::io::stderr().flush().ok();
        Some(Hidden::begin()?)
    } else {
        None
    };
    let line = line(&mut unbuffered()?);
    if hidden.is_some() {
        eprintln!();
    }
    drop(hidden);
    line
}

/// One line of at most [`LINE_MAX`] bytes, without white space around it.
fn line(source: &mut impl Read) -> Result<Zeroizing<String>, Failure> {
    let failed = |reason: &dyn std::fmt::Display| Failure::refused(format!("cannot read the line: {reason}"));
    let mut bytes = Zeroizing::new(Vec::with_capacity(LINE_MAX));
    let mut byte = [0];
    while bytes.len() < LINE_MAX {
        match source.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(&"it is not text"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The terminal without echo, until it is dropped.
struct Hidden(nix::sys::termios::Termios);

impl Hidden {
    fn begin() -> Result<Self, Failure> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let failed = |error| Failure::refused(format!("cannot hide what is typed on the terminal: {error}"));
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Err(error) = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSAFLUSH, &self.0) {
            eprintln!("skep: the terminal could not be set back; type `stty echo`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_a_size_below_the_limit() {
        let mut small: &[u8] = b"abc";
        assert_eq!(&**read("secret", "f", &mut small, 4).expect("fits"), b"abc");
        assert_eq!(line(&mut b" key \nrest".as_slice()).expect("a line").as_str(), "key");
        let mut large: &[u8] = b"abcd";
        assert!(read("secret", "f", &mut large, 4).is_err());
        assert!(value("secret", "/nonexistent/file", 4).is_err_and(|failure| failure.text.contains("/nonexistent/file")));
        assert_eq!(
            value("secret", "/dev/null", 4).map(drop),
            Err(Failure::refused("the secret is empty: give at least one byte"))
        );
    }
}
