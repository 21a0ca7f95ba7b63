//! `--host NAME:ADDRESS`: a line of the task's `/etc/hosts`.

use skep_model::container::HostEntry;
use std::net::IpAddr;

/// Parses an entry; an IPv6 address may be in brackets.
pub fn parse(text: &str) -> Result<HostEntry, String> {
    let invalid = || format!("invalid host entry {text:?}: write it as NAME:ADDRESS");
    let (name, address) = text.split_once([':', '=']).ok_or_else(invalid)?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let parsed: IpAddr = address.parse().map_err(|_| invalid())?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(invalid());
    }
    Ok(HostEntry { address: parsed.to_string(), name: name.to_owned() })
}

/// Whether `--host-rm TEXT` (`NAME` or `NAME:ADDRESS`) takes away an entry.
pub fn removes(text: &str, entry: &HostEntry) -> bool {
    match parse(text) {
        Ok(wanted) => wanted == *entry,
        Err(_) => entry.name == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_name_and_an_address() {
        let table = [
            ("db:10.0.0.1", Some(("db", "10.0.0.1"))),
            ("db:::1", Some(("db", "::1"))),
            ("db:[::1]", Some(("db", "::1"))),
            ("db", None),
            (":10.0.0.1", None),
            ("db:x", None),
        ];
        for (text, expected) in table {
            let found = parse(text).ok().map(|entry| (entry.name, entry.address));
            assert_eq!(found, expected.map(|(name, address)| (name.to_owned(), address.to_owned())), "{text}");
        }
        let entry = parse("db:10.0.0.1").expect("valid");
        assert!(removes("db", &entry) && removes("db:10.0.0.1", &entry) && !removes("db:10.0.0.2", &entry));
    }
}
