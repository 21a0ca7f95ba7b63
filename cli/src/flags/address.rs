//! Flags whose value is an address of this node: checked as the daemon checks it.

/// `--advertise-addr`.
pub fn advertised(text: &str) -> Result<String, String> {
    skep_model::address::advertised(text).map(|_| text.to_owned()).map_err(|invalid| invalid.reason)
}

/// `--data-path-addr`.
pub fn data_path(text: &str) -> Result<String, String> {
    skep_model::address::data_path(text).map(|_| text.to_owned()).map_err(|invalid| invalid.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_be_none_is_refused_before_the_daemon_is_asked() {
        assert_eq!(advertised("eth0:2377"), Ok("eth0:2377".into()));
        for text in ["", "240.0.0.1", "0.0.0.0", "fe80::1", "10.0.0.1:0"] {
            assert!(advertised(text).is_err() && data_path(text).is_err(), "{text:?}");
        }
        assert!(data_path("10.0.0.1:1").is_err());
    }
}
