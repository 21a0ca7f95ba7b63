//! Placement constraints as they are stored.

use skep_model::constraint::Constraint;
use skep_model::node::Node;

/// Constraints that were valid when they were admitted; a stored one that is not (by a
/// rule of a later release) matches nothing.
pub(crate) fn parse(constraints: &[String]) -> Vec<Constraint> {
    let never = || Constraint::parse("node.id==none").expect("a valid constraint");
    constraints.iter().map(|text| Constraint::parse(text).unwrap_or_else(|_| never())).collect()
}

/// Whether a node meets all of them.
pub(crate) fn are_met(constraints: &[Constraint], node: &Node) -> bool {
    constraints.iter().all(|constraint| constraint.matches(node))
}
