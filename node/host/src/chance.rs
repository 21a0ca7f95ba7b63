//! Chance, from the operating system.

/// Random bytes.
///
/// # Panics
/// When the operating system has none: nothing that is meant to be unknown may be made then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
