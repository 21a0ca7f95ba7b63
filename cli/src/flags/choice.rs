//! Flags whose value is one of a few words.

use skep_model::endpoint::EndpointMode;
use skep_model::node::{Availability, Role};
use skep_model::service::{FailureAction, RestartCondition, UpdateOrder};

fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("invalid value {text:?}: expected one of {}", words.join(", "))
    })
}

/// `--availability`.
pub fn availability(text: &str) -> Result<Availability, String> {
    one_of(text, &[("active", Availability::Active), ("pause", Availability::Pause), ("drain", Availability::Drain)])
}

/// `--role`.
pub fn role(text: &str) -> Result<Role, String> {
    one_of(text, &[("worker", Role::Worker), ("manager", Role::Manager)])
}

/// `--restart-condition`.
pub fn restart_condition(text: &str) -> Result<RestartCondition, String> {
    let words = [("none", RestartCondition::None), ("on-failure", RestartCondition::OnFailure), ("any", RestartCondition::Any)];
    one_of(text, &words)
}

/// `--update-failure-action`.
pub fn failure_action(text: &str) -> Result<FailureAction, String> {
    let words = [("pause", FailureAction::Pause), ("continue", FailureAction::Continue), ("rollback", FailureAction::Rollback)];
    one_of(text, &words)
}

/// `--rollback-failure-action`: a rollback is never rolled back.
pub fn rollback_failure_action(text: &str) -> Result<FailureAction, String> {
    one_of(text, &[("pause", FailureAction::Pause), ("continue", FailureAction::Continue)])
}

/// `--endpoint-mode`.
pub fn endpoint_mode(text: &str) -> Result<EndpointMode, String> {
    one_of(text, &[("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)])
}

/// `--update-order` and `--rollback-order`.
pub fn order(text: &str) -> Result<UpdateOrder, String> {
    one_of(text, &[("start-first", UpdateOrder::StartFirst), ("stop-first", UpdateOrder::StopFirst)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_refused_with_the_right_ones() {
        assert_eq!(order("start-first"), Ok(UpdateOrder::StartFirst));
        assert_eq!(
            rollback_failure_action("rollback"),
            Err("invalid value \"rollback\": expected one of pause, continue".into())
        );
        assert!(availability("Active").is_err());
    }
}
