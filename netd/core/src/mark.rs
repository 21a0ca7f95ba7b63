//! Connection marks: by which ingress node a connection came to a task.
//!
//! The connection mark that the rules set, the rule that looks the mark up and the
//! routing table that leads back to the node all have this one number.

use skep_model::endpoint::INGRESS_NODES_MAX;

/// Below it are the kernel's own routing tables (253 to 255).
const FIRST: u32 = 0x100;

/// The mark, and the routing table, of connections through the ingress node of
/// this number.
///
/// # Panics
/// If there is no such number; the manager gives only those from 1 to
/// [`INGRESS_NODES_MAX`].
pub fn ingress_mark(number: u32) -> u32 {
    assert!((1..=INGRESS_NODES_MAX).contains(&number), "an ingress node has a number from 1 to {INGRESS_NODES_MAX}");
    FIRST + number
}

/// Whether a mark is that of some ingress node.
pub fn is_ingress_mark(mark: u32) -> bool {
    (ingress_mark(1)..=ingress_mark(INGRESS_NODES_MAX)).contains(&mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_node_and_of_no_table_of_the_kernels() {
        assert_eq!((ingress_mark(1), ingress_mark(2)), (257, 258));
        assert!(ingress_mark(INGRESS_NODES_MAX) < 0x1000);
    }
}
