//! What the kernel answers to a request: an acknowledgement, or an error number
//! (errno) and sometimes a text (extended ack).
//!
//! Errors are told apart by their number, never by their text.

use super::uapi::{NLMSG_ERROR, NLMSGERR_ATTR_MSG};
use super::wire::{self, HEADER_LEN, MessageView};
use nix::errno::Errno;
use std::io;

/// The body of an NLMSG_ERROR message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Why the request was refused; `None` = it was taken.
    pub(crate) errno: Option<Errno>,
    /// The kernel's own words, where it has any.
    pub(crate) text: Option<String>,
}

impl Answer {
    /// Reads a message; `None` if it is no answer.
    pub(crate) fn parse(message: &MessageView<'_>) -> Option<Self> {
        const HAS_ATTRIBUTES: u16 = libc::NLM_F_ACK_TLVS as u16;
        if message.kind != NLMSG_ERROR {
            return None;
        }
        let errno = errno(wire::u32_at(message.body, 0)?.cast_signed());
        let attributes = message.body.get(4 + HEADER_LEN..).filter(|_| message.flags & HAS_ATTRIBUTES != 0);
        let text = attributes.and_then(|bytes| wire::find(bytes, NLMSGERR_ATTR_MSG)).map(wire::text);
        Some(Self { errno, text })
    }
}

/// The error that a negative number stands for, if any.
pub(crate) fn errno(code: i32) -> Option<Errno> {
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

/// Why a request has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kernel refused it.
    #[error("{}", io::Error::from(*.0))]
    Refused(Errno),
    /// No answer came.
    #[error("no answer in time")]
    TimedOut,
    /// The request could not be sent, or its answer not be read.
    #[error("{0}")]
    Unreadable(String),
}

impl From<rtnetlink::Error> for Failure {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::from(&message),
            other => Self::Unreadable(other.to_string()),
        }
    }
}

impl From<&rtnetlink::packet_core::ErrorMessage> for Failure {
    fn from(message: &rtnetlink::packet_core::ErrorMessage) -> Self {
        Self::Refused(errno(message.raw_code()).unwrap_or(Errno::UnknownErrno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::{MessageWriter, messages};

    #[test]
    fn an_answer_is_an_error_number_and_perhaps_a_text() {
        let of = |kind, flags, code: i32, text: Option<&str>| {
            let mut body = code.to_ne_bytes().to_vec();
            body.resize(4 + HEADER_LEN, 0);
            let mut message = MessageWriter::new(kind, flags, 1, &body);
            if let Some(text) = text {
                message.text(NLMSGERR_ATTR_MSG, text);
            }
            let bytes = message.finish();
            Answer::parse(&messages(&bytes).next().expect("one message"))
        };
        let flag = libc::NLM_F_ACK_TLVS as u16;
        assert_eq!(of(NLMSG_ERROR, 0, 0, None), Some(Answer { errno: None, text: None }));
        assert_eq!(of(NLMSG_ERROR, 0, -2, Some("x")), Some(Answer { errno: Some(Errno::ENOENT), text: None }));
        let told = Answer { errno: Some(Errno::EINVAL), text: Some("bad mask".to_owned()) };
        assert_eq!(of(NLMSG_ERROR, flag, -22, Some("bad mask")), Some(told));
        assert_eq!(of(NLMSG_ERROR + 1, 0, -22, None), None);
    }

    #[test]
    fn a_failure_is_told_as_the_system_tells_it() {
        assert_eq!(Failure::Refused(Errno::ENODEV).to_string(), "No such device (os error 19)");
    }
}
