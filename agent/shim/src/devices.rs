//! Which devices a task may use, on cgroup version 2: a program of our own in the kernel, attached to the task's cgroup.
//!
//! Version 1 has a controller for this; version 2 asks the programs of type `cgroup_device` at every open and mknod. The
//! list is Docker's default one and the same in both versions: any node may be made, and only the listed ones be opened.
//! The program is attached beside those of the cgroups above (`BPF_F_ALLOW_MULTI`): each can only forbid more.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Character devices that a task may read and write: (major, minor), no minor being any.
pub const ALLOWED: [(u32, Option<u32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

/// Whether a task may open this node.
pub fn is_allowed(is_block: bool, major: u32, minor: u32) -> bool {
    !is_block && ALLOWED.iter().any(|(m, n)| *m == major && n.is_none_or(|n| n == minor))
}

// `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const ACCESS_MKNOD: i32 = 1;
const KIND_CHAR: i32 = 2;
/// Bytes that the kernel of any version takes of an attribute whose rest is zero.
const ATTRIBUTE_BYTES: usize = 72;

/// One instruction: operation, registers (source in the upper half), jump, number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    operation: u8,
    registers: u8,
    jump: i16,
    number: i32,
}

const fn instruction(operation: u8, to: u8, from: u8, jump: i16, number: i32) -> Instruction {
    Instruction { operation, registers: from << 4 | to, jump, number }
}

/// The program: 1 allows, 0 forbids. Its argument is `struct bpf_cgroup_dev_ctx`: access and kind in one word, major, minor.
fn program() -> Vec<Instruction> {
    let load = |to, offset| instruction(0x61, to, 1, offset, 0);
    let unless = |register, number, jump| instruction(0x55, register, 0, jump, number);
    let answer = |number| [instruction(0xb7, 0, 0, 0, number), instruction(0x95, 0, 0, 0, 0)];
    let allow = answer(1);
    // r2 access and kind, r3 access, r4 major, r5 minor.
    let mut program = vec![
        load(2, 0),
        instruction(0xbf, 3, 2, 0, 0),
        instruction(0x77, 3, 0, 0, 16),
        instruction(0x57, 2, 0, 0, 0xffff),
        load(4, 4),
        load(5, 8),
        unless(3, ACCESS_MKNOD, 2),
    ];
    program.extend(allow);
    program.push(instruction(0x15, 2, 0, 2, KIND_CHAR));
    program.extend(answer(0));
    for (major, minor) in ALLOWED {
        match minor {
            Some(minor) => program.extend([unless(4, major as i32, 3), unless(5, minor as i32, 2)]),
            None => program.push(unless(4, major as i32, 2)),
        }
        program.extend(allow);
    }
    program.extend(answer(0));
    program
}

fn bpf(command: libc::c_int, attribute: &mut [u8; ATTRIBUTE_BYTES]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most as many bytes as it is told the attribute has; what the attribute
    // points to is kept alive by the callers.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), ATTRIBUTE_BYTES) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn put(attribute: &mut [u8; ATTRIBUTE_BYTES], at: usize, bytes: &[u8]) {
    attribute[at..at + bytes.len()].copy_from_slice(bytes);
}

fn load() -> io::Result<OwnedFd> {
    let program = program();
    let license = c"Apache-2.0";
    let mut attribute = [0; ATTRIBUTE_BYTES];
    put(&mut attribute, 0, &BPF_PROG_TYPE_CGROUP_DEVICE.to_ne_bytes());
    put(&mut attribute, 4, &(program.len() as u32).to_ne_bytes());
    put(&mut attribute, 8, &(program.as_ptr() as u64).to_ne_bytes());
    put(&mut attribute, 16, &(license.as_ptr() as u64).to_ne_bytes());
    put(&mut attribute, 48, b"skep_devices");
    let fd = bpf(BPF_PROG_LOAD, &mut attribute)?;
    // SAFETY: a new descriptor, closed on exec as all of this call, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has the kernel forbid to the processes of a version 2 cgroup, and of those below it, every device but the [`ALLOWED`].
pub fn attach(folder: &Path) -> io::Result<()> {
    let cgroup = File::open(folder)?;
    let program = load()?;
    let mut attribute = [0; ATTRIBUTE_BYTES];
    put(&mut attribute, 0, &(cgroup.as_raw_fd() as u32).to_ne_bytes());
    put(&mut attribute, 4, &(program.as_raw_fd() as u32).to_ne_bytes());
    put(&mut attribute, 8, &BPF_CGROUP_DEVICE.to_ne_bytes());
    put(&mut attribute, 12, &BPF_F_ALLOW_MULTI.to_ne_bytes());
    bpf(BPF_PROG_ATTACH, &mut attribute).map(drop)
}

/// The ids of the device programs attached to a version 2 cgroup itself.
pub fn attached(folder: &Path) -> io::Result<Vec<u32>> {
    const IDS_MAX: usize = 64;
    let cgroup = File::open(folder)?;
    let mut ids = [0u32; IDS_MAX];
    let mut attribute = [0; ATTRIBUTE_BYTES];
    put(&mut attribute, 0, &(cgroup.as_raw_fd() as u32).to_ne_bytes());
    put(&mut attribute, 4, &BPF_CGROUP_DEVICE.to_ne_bytes());
    put(&mut attribute, 16, &(ids.as_mut_ptr() as u64).to_ne_bytes());
    put(&mut attribute, 24, &(IDS_MAX as u32).to_ne_bytes());
    bpf(BPF_PROG_QUERY, &mut attribute)?;
    let count: [u8; 4] = attribute[24..28].try_into().unwrap_or_default();
    Ok(ids[..(u32::from_ne_bytes(count) as usize).min(IDS_MAX)].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by a reading of it instruction by instruction.
    fn run(access: i64, kind: i64, major: i64, minor: i64) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, program, mut at) = ([0i64; 11], program(), 0usize);
        loop {
            let Instruction { operation, registers: both, jump, number } = program[at];
            let (to, from) = ((both & 15) as usize, (both >> 4) as usize);
            at += 1;
            match operation {
                0x61 => registers[to] = context[jump as usize / 4],
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = number.into(),
                0x77 => registers[to] >>= number,
                0x57 => registers[to] &= i64::from(number),
                0x55 if registers[to] != i64::from(number) => at += jump as usize,
                0x15 if registers[to] == i64::from(number) => at += jump as usize,
                0x55 | 0x15 => {}
                0x95 => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn any_node_may_be_made_and_dockers_ones_be_opened() {
        let [mknod, read, write, block, char] = [1, 2, 4, 1, 2];
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 0), (136, 77)] {
            assert_eq!(run(read | write, char, major, minor), 1, "{major}:{minor}");
            assert_eq!(run(read, block, major, minor), 0, "block {major}:{minor}");
            assert!(is_allowed(false, major as u32, minor as u32) && !is_allowed(true, major as u32, minor as u32));
        }
        for (major, minor) in [(1, 1), (1, 4), (1, 11), (8, 0), (10, 200), (10, 229), (7, 0), (0, 0), (5, 3), (3, 1)] {
            for access in [read, write, read | write] {
                assert_eq!(run(access, char, major, minor), 0, "{major}:{minor}");
                assert_eq!(run(access, block, major, minor), 0, "{major}:{minor}");
            }
            assert_eq!(run(mknod, char, major, minor), 1);
            assert_eq!(run(mknod, block, major, minor), 1);
            assert!(!is_allowed(false, major as u32, minor as u32));
        }
    }
}
