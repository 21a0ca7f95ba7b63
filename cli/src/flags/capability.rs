//! `--cap-add` and `--cap-drop`: names with or without `CAP_`, in any case.

use std::collections::BTreeSet;

/// Forgets what the service had.
const RESET: &str = "RESET";

/// The form in specs: `CAP_NET_ADMIN`, `ALL`, or `RESET` on its way to [`apply`].
pub fn normalise(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    if bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        return Err(format!("invalid capability {text:?}: write it as NET_ADMIN or ALL"));
    }
    Ok(if bare == "ALL" || bare == RESET { bare.to_owned() } else { format!("CAP_{bare}") })
}

/// Changes the lists of a spec. Adding wins over dropping; what is added is no
/// longer dropped and the other way round.
pub fn apply(spec_add: &mut Vec<String>, spec_drop: &mut Vec<String>, add: &[String], drop: &[String]) {
    let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<String>>();
    let (mut has_add, mut has_drop) = (set(spec_add), set(spec_drop));
    let (mut add, mut drop) = (set(add), set(drop));
    if add.remove(RESET) {
        has_add.clear();
    }
    if drop.remove(RESET) {
        has_drop.clear();
    }
    for name in drop.difference(&add) {
        has_add.remove(name);
        has_drop.insert(name.clone());
    }
    for name in &add {
        has_drop.remove(name);
        has_add.insert(name.clone());
    }
    *spec_add = has_add.into_iter().collect();
    *spec_drop = has_drop.into_iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        let table = [
            ("net_admin", Some("CAP_NET_ADMIN")),
            ("CAP_CHOWN", Some("CAP_CHOWN")),
            ("all", Some("ALL")),
            ("", None),
            ("a b", None),
        ];
        for (text, expected) in table {
            assert_eq!(normalise(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn adding_wins_and_moves() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (mut add, mut drop) = (list(&["CAP_A"]), list(&["CAP_B"]));
        apply(&mut add, &mut drop, &list(&["CAP_B", "CAP_C"]), &list(&["CAP_A", "CAP_C"]));
        assert_eq!((add.clone(), drop.clone()), (list(&["CAP_B", "CAP_C"]), list(&["CAP_A"])));
        apply(&mut add, &mut drop, &list(&["RESET"]), &list(&["RESET", "CAP_D"]));
        assert_eq!((add, drop), (list(&[]), list(&["CAP_D"])));
    }
}
