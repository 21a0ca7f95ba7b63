//! The words that Docker's JSON has for the values of closed sets: one table each, for both ways.

use skep_model::Refusal;
use skep_model::container::MountKind;
use skep_model::endpoint::{EndpointMode, PublishMode, Transport};
use skep_model::node::{Availability, NodeState, Role};
use skep_model::service::{FailureAction, NetworkMode, RestartCondition, UpdateOrder};

/// A value of a closed set, with a word for each.
pub trait Word: Copy + PartialEq + Sized + 'static {
    /// Every value and its word.
    const WORDS: &'static [(Self, &'static str)];

    /// Its word.
    fn word(self) -> &'static str {
        let row = Self::WORDS.iter().find(|(value, _)| *value == self);
        row.map(|(_, word)| *word).expect("the table has every value")
    }

    /// The value that a word of a field means.
    ///
    /// # Errors
    /// Names the field, the word and the words that there are.
    fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        let row = Self::WORDS.iter().find(|(_, word)| *word == text);
        row.map(|(value, _)| *value).ok_or_else(|| {
            let words: Vec<&str> = Self::WORDS.iter().map(|(_, word)| *word).collect();
            Refusal::invalid(field, text, format!("expected one of {}", words.join(", ")))
        })
    }

    /// The same, where no word means the default.
    ///
    /// # Errors
    /// As [`Word::parse`].
    fn parse_or_default(field: &str, text: &str) -> Result<Self, Refusal>
    where
        Self: Default,
    {
        if text.is_empty() { Ok(Self::default()) } else { Self::parse(field, text) }
    }
}

macro_rules! words {
    ($($kind:ident { $($value:ident = $word:literal),+ $(,)? })*) => {$(
        impl Word for $kind {
            const WORDS: &'static [(Self, &'static str)] = &[$(($kind::$value, $word)),+];
        }
    )*};
}

words! {
    MountKind { Bind = "bind", Tmpfs = "tmpfs" }
    NetworkMode { None = "none", Host = "host", Bridge = "bridge" }
    RestartCondition { None = "none", OnFailure = "on-failure", Any = "any" }
    FailureAction { Pause = "pause", Continue = "continue", Rollback = "rollback" }
    UpdateOrder { StopFirst = "stop-first", StartFirst = "start-first" }
    EndpointMode { Vip = "vip", Dnsrr = "dnsrr" }
    Transport { Tcp = "tcp", Udp = "udp" }
    PublishMode { Ingress = "ingress", Host = "host" }
    Role { Worker = "worker", Manager = "manager" }
    Availability { Active = "active", Pause = "pause", Drain = "drain" }
    NodeState { Unknown = "unknown", Down = "down", Ready = "ready", Disconnected = "disconnected" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_word_is_refused_with_the_words_there_are() {
        let refusal = UpdateOrder::parse("UpdateConfig.Order", "first").expect_err("no such order");
        assert_eq!(refusal.to_string(), "invalid UpdateConfig.Order \"first\": expected one of stop-first, start-first");
        assert_eq!(UpdateOrder::parse_or_default("Order", ""), Ok(UpdateOrder::StopFirst));
        assert_eq!(NetworkMode::Host.word(), "host");
    }
}
