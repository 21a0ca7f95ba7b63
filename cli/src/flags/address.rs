//! Flags whose value is an address of this node: checked as the daemon checks it.

/// `--advertise-addr`.
pub fn advertised(text: &str) -> Result<String, String> {
    skep_model::address::advertised(text).map(|_| text.to_owned()).map_err(|invalid| invalid.reason)
}

/// `--data-path-addr`.
pub fn data_path(text: &str) -> Result<String, String> {
    skep_model::address::data_path(text).map(|_| text.to_owned()).map_err(|invalid| invalid.reason)
}

/// `--listen-addr`. The interface that it names may be the daemon's alone to find; what is
/// empty would be the default, in silence.
pub fn listened(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty: name an IP address or network interface, or leave the flag out".to_owned());
    }
    let reason = "it must be an IP address or network interface, with an optional port";
    skep_model::address::split(text).map(|_| text.to_owned()).ok_or_else(|| reason.to_owned())
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
        for text in ["0.0.0.0:2377", "::", "[::]:1", "eth0"] {
            assert_eq!(listened(text), Ok(text.into()));
        }
        for text in ["", ":2377", "10.0.0.1:port", "eth0:0"] {
            assert!(listened(text).is_err(), "{text:?}");
        }
    }
}
