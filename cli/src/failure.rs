//! How a command ends when it does not end well: one line, one exit code.
//!
//! The codes stand in the help of `skep`, in `docs/decisions.md`, and here.

use skep_model::Refusal;
use skep_proto::Malformed;
use std::fmt;
use tonic::Status;

/// What the help says of exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done; for a wait: the deployment converged, or Ctrl-C ended the wait and the deployment goes on
  1    the request was refused and nothing changed; or one of several arguments failed
  2    wrong usage, or something that this version does not support
  3    the deployment failed, is paused, or was replaced by another change
  4    the deployment failed and was rolled back
  5    the deployment did not converge in time
  6    no connection to the daemon, or it was lost
  130  Ctrl-C before a change was decided: it may be carried out or not";

/// The exit codes; 0 is success, and for a wait: converged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The request was refused, nothing changed.
    Refused,
    /// The object was changed since it was read; the same may be asked again.
    OutOfSequence,
    /// The command line makes no sense or asks for what is not built.
    Usage,
    /// The deployment failed or is paused.
    Failed,
    /// The deployment failed and was rolled back.
    RolledBack,
    /// The deployment did not converge in time.
    Deadline,
    /// There is no connection to the daemon, or it was lost.
    ConnectionLost,
    /// Ctrl-C while a deployment was awaited, which goes on: a success.
    Detached,
    /// Ctrl-C before a change was decided.
    Interrupted,
}

impl Exit {
    /// The number for the shell.
    pub fn code(self) -> u8 {
        match self {
            Self::Refused | Self::OutOfSequence => 1,
            Self::Usage => 2,
            Self::Failed => 3,
            Self::RolledBack => 4,
            Self::Deadline => 5,
            Self::ConnectionLost => 6,
            Self::Detached => 0,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell the user; empty if it has been told.
    pub text: String,
}

impl Failure {
    /// The request was refused.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, text: text.into() }
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into() }
    }

    /// The daemon cannot be reached any more.
    pub fn connection(text: impl Into<String>) -> Self {
        Self { exit: Exit::ConnectionLost, text: text.into() }
    }

    /// An exit whose reasons have been printed.
    pub fn told(exit: Exit) -> Self {
        Self { exit, text: String::new() }
    }

    /// A flag, value or command whose behaviour is not built.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::usage(format!("{what} is not supported by this version of skep"))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.to_string())
    }
}

/// The daemon answered with something that is no message of this version.
impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::refused(format!("the daemon's answer makes no sense: {error}"))
    }
}

impl From<skep_template::TemplateError> for Failure {
    fn from(error: skep_template::TemplateError) -> Self {
        Self::usage(format!("template parsing error: {error}"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if crate::client::is_connection_lost(&status) {
            return Self::connection(format!("lost the connection to the daemon: {}", crate::client::reason(&status)));
        }
        let is_out_of_sequence = skep_proto::status::to_refusal(&status) == Some(Refusal::OutOfSequence);
        let exit = if is_out_of_sequence { Exit::OutOfSequence } else { Exit::Refused };
        Self { exit, text: status.message().to_owned() }
    }
}

/// Many arguments, each tried: prints every failure, and ends with the first one's code.
pub fn all(failures: Vec<Failure>) -> Result<(), Failure> {
    let Some(first) = failures.first() else { return Ok(()) };
    if let [only] = &failures[..] {
        return Err(only.clone());
    }
    for failure in failures.iter().filter(|failure| !failure.text.is_empty()) {
        eprintln!("skep: {}", failure.text);
    }
    Err(Failure::told(first.exit))
}
