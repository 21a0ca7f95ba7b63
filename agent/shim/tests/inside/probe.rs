//! A static program for the tests to run inside a container: what a task can and cannot do, one word per question.
//!
//! Compiled by the tests themselves with plain `rustc`; no crate, so the few C functions are declared here.

use std::ffi::{c_int, c_long};

unsafe extern "C" {
    fn geteuid() -> u32;
    fn unshare(flags: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

fn verdict(result: c_long) -> String {
    match result {
        -1 => format!("{:?}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => "ok".to_owned(),
    }
}

fn main() {
    let answer = match std::env::args().nth(1).as_deref() {
        // SAFETY: calls on numbers.
        Some("euid") => unsafe { geteuid().to_string() },
        // SAFETY: as above; a new user namespace for a process that ends now.
        Some("unshare-user") => verdict(unsafe { unshare(0x1000_0000) }.into()),
        // SAFETY: as above; the number is beyond every table.
        Some("unknown-call") => verdict(unsafe { syscall(100_000) }),
        other => panic!("unknown question {other:?}"),
    };
    println!("{answer}");
}
