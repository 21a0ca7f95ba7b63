//! `--placement-pref spread=LABEL` and `--constraint`.

use skep_model::constraint::Constraint;

/// The label to spread over.
pub fn preference(text: &str) -> Result<String, String> {
    let (strategy, label) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid placement preference {text:?}: write it as spread=node.labels.NAME"))?;
    if !strategy.trim().eq_ignore_ascii_case("spread") {
        return Err(format!("unsupported placement preference {strategy:?}: only spread is supported"));
    }
    let label = label.trim();
    let is_label =
        ["node.labels.", "engine.labels."].iter().any(|prefix| label.len() > prefix.len() && label.starts_with(prefix));
    if is_label {
        Ok(label.to_owned())
    } else {
        Err(format!("invalid placement preference {text:?}: write it as spread=node.labels.NAME or spread=engine.labels.NAME"))
    }
}

/// A constraint, checked for its form and for what it asks of.
pub fn constraint(text: &str) -> Result<String, String> {
    let checked = Constraint::parse(text).and_then(|constraint| constraint.check());
    checked.map(|()| text.to_owned()).map_err(|refusal| refusal.to_string())
}

/// Whether two texts are one constraint, however they are spaced.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || Constraint::parse(one).is_ok_and(|one| Constraint::parse(other) == Ok(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_spread_over_labels() {
        assert_eq!(preference("spread=node.labels.zone").as_deref(), Ok("node.labels.zone"));
        for wrong in ["spread", "pack=node.labels.zone", "spread=zone", "spread=node.labels."] {
            assert!(preference(wrong).is_err(), "{wrong}");
        }
        assert!(constraint("node.role==worker").is_ok() && constraint("node.role").is_err());
        assert!(constraint("node.rol==worker").is_err_and(|error| error.contains("node.role")));
        assert!(is_same("node.role == worker", "node.role==worker") && !is_same("node.role!=worker", "node.role==worker"));
    }
}
