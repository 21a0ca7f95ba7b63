//! The system call filter: Docker's default profile as a classic BPF program of our own, without a C library.
//!
//! The program has one body per ABI. A body answers, in this order: a number newer than our table, `clone3` without
//! CAP_SYS_ADMIN, and the x32 ABI get ENOSYS, so that a C library falls back; calls with an argument rule get their
//! verdict; allowed numbers pass; all others get EPERM. A foreign ABI is killed.
//!
//! Jumps reach 255 instructions only, so every test carries its own return and the program is a chain of short links.

use super::syscall_numbers as numbers;
use skep_shim::capabilities::bit;

/// One instruction, as the kernel's `struct sock_filter`.
pub type Instruction = libc::sock_filter;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// Flags of clone(2) and unshare(2) that make namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;

struct Abi {
    arch: u32,
    table: &'static [(&'static str, u32)],
}

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[Abi { arch: 0xc000_003e, table: numbers::X86_64 }, Abi { arch: 0x4000_0003, table: numbers::I386 }];
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[Abi { arch: 0xc000_00b7, table: numbers::AARCH64 }];

/// Calls every task may make.
const ALWAYS: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 \
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait \
    futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid \
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
    getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt \
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr \
    _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret \
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat \
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 \
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 \
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr \
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto \
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority \
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list \
    setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget \
    shutdown sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend sigaction \
    socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range \
    syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime \
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev \
    arch_prctl modify_ldt";

/// Calls that come with a capability, as Docker's profile pairs them.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module query_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// The filter for a task with these capabilities.
pub fn compile(capabilities: u64) -> Vec<Instruction> {
    let bodies: Vec<_> = ABIS.iter().map(|abi| (abi.arch, body(abi, capabilities))).collect();
    let mut program = vec![statement(LOAD, ARCH)];
    for (arch, body) in bodies {
        // The body is longer than a conditional jump reaches, so the way around it is an absolute one.
        program.push(jump(JUMP_EQUAL, arch, 1, 0));
        program.push(statement(0x05, body.len() as u32));
        program.extend(body);
    }
    program.push(statement(RETURN, KILL_PROCESS));
    program
}

fn body(abi: &Abi, capabilities: u64) -> Vec<Instruction> {
    let admin = capabilities & 1 << 21 != 0;
    let number = |name: &str| abi.table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let mut program = vec![statement(LOAD, NUMBER)];
    // The x32 ABI marks its numbers with bit 30, so this answers it as well.
    refuse_if(&mut program, JUMP_GREATER, numbers::NEWEST, libc::ENOSYS);
    if !admin {
        if let Some(clone3) = number("clone3") {
            refuse_if(&mut program, JUMP_EQUAL, clone3, libc::ENOSYS);
        }
        if let Some(clone) = number("clone") {
            let mut rule = vec![statement(LOAD, argument(0)), statement(AND, NAMESPACE_FLAGS)];
            rule.extend([jump(JUMP_EQUAL, 0, 0, 1), allow(), errno(libc::EPERM)]);
            when(&mut program, clone, rule);
        }
    }
    if let Some(personality) = number("personality") {
        let mut rule = vec![statement(LOAD, argument(0))];
        for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            rule.extend([jump(JUMP_EQUAL, persona, 0, 1), allow()]);
        }
        rule.push(errno(libc::EPERM));
        when(&mut program, personality, rule);
    }
    if let Some(socket) = number("socket") {
        let rule = vec![statement(LOAD, argument(0)), jump(JUMP_EQUAL, AF_VSOCK, 0, 1), errno(libc::EPERM), allow()];
        when(&mut program, socket, rule);
    }
    for (low, high) in ranges(allowed(abi, capabilities)) {
        program.extend([jump(JUMP_GREATER, high, 3, 0), jump(JUMP_AT_LEAST, low, 0, 1), allow(), errno(libc::EPERM)]);
    }
    program.push(errno(libc::EPERM));
    program
}

fn allowed(abi: &Abi, capabilities: u64) -> Vec<u32> {
    let mut names: Vec<&str> = ALWAYS.split_ascii_whitespace().collect();
    for (capability, calls) in WITH_CAPABILITY {
        if bit(capability).is_ok_and(|bit| capabilities & bit != 0) {
            names.extend(calls.split_ascii_whitespace());
        }
    }
    let mut found: Vec<u32> = abi.table.iter().filter(|(name, _)| names.contains(name)).map(|(_, number)| *number).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn ranges(rising: Vec<u32>) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for number in rising {
        match found.last_mut() {
            Some((_, high)) if *high + 1 == number => *high = number,
            _ => found.push((number, number)),
        }
    }
    found
}

fn when(program: &mut Vec<Instruction>, number: u32, rule: Vec<Instruction>) {
    program.push(jump(JUMP_EQUAL, number, 0, rule.len() as u8));
    program.extend(rule);
}

fn refuse_if(program: &mut Vec<Instruction>, test: u16, number: u32, error: i32) {
    program.extend([jump(test, number, 0, 1), errno(error)]);
}

/// Offset of the low half of an argument; both ABIs we build for are little-endian.
fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, jt: if_true, jf: if_false, k }
}

fn allow() -> Instruction {
    statement(RETURN, ALLOW)
}

fn errno(error: i32) -> Instruction {
    statement(RETURN, ERRNO | error as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_shim::capabilities::DEFAULT;

    /// What the kernel would answer: a machine for the few instructions we emit.
    fn run(program: &[Instruction], arch: u32, number: u32, first: u32) -> u32 {
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let mut branch = |taken| at += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD if i.k == NUMBER => a = number,
                LOAD if i.k == ARCH => a = arch,
                LOAD => a = first,
                AND => a &= i.k,
                JUMP_EQUAL => branch(a == i.k),
                JUMP_GREATER => branch(a > i.k),
                JUMP_AT_LEAST => branch(a >= i.k),
                RETURN => return i.k,
                0x05 => at += i.k as usize,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn verdict(abi: &Abi, capabilities: u64, name: &str, first: u32) -> u32 {
        let number = abi.table.iter().find(|(known, _)| *known == name).unwrap().1;
        run(&compile(capabilities), abi.arch, number, first)
    }

    const EPERM: u32 = ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

    #[test]
    fn the_profile_is_dockers_on_every_abi() {
        for abi in ABIS {
            for (name, first, capabilities, expect) in [
                ("read", 0, 0, ALLOW),
                ("socket", 2, DEFAULT, ALLOW),
                ("socket", AF_VSOCK, DEFAULT, EPERM),
                ("unshare", 0x1000_0000, DEFAULT, EPERM),
                ("unshare", 0x1000_0000, DEFAULT | 1 << 21, ALLOW),
                ("clone", 0x1000_0000, DEFAULT, EPERM),
                ("clone", 0x11, DEFAULT, ALLOW),
                ("clone", 0x1000_0000, DEFAULT | 1 << 21, ALLOW),
                ("clone3", 0, DEFAULT, ENOSYS),
                ("clone3", 0, DEFAULT | 1 << 21, ALLOW),
                ("personality", 0x40_0000, DEFAULT, EPERM),
                ("personality", 0xffff_ffff, DEFAULT, ALLOW),
                ("mount", 0, DEFAULT, EPERM),
                ("bpf", 0, DEFAULT, EPERM),
                ("keyctl", 0, DEFAULT, EPERM),
                ("io_uring_setup", 0, DEFAULT, EPERM),
                ("userfaultfd", 0, DEFAULT, EPERM),
                ("chroot", 0, DEFAULT, ALLOW),
                ("chroot", 0, 0, EPERM),
                ("reboot", 0, DEFAULT, EPERM),
                ("pidfd_open", 0, DEFAULT, ALLOW),
                ("pidfd_getfd", 0, DEFAULT, EPERM),
                ("pidfd_getfd", 0, DEFAULT | 1 << 19, ALLOW),
                ("execve", 0, 0, ALLOW),
                ("capset", 0, 0, ALLOW),
                ("setgroups", 0, 0, ALLOW),
            ] {
                assert_eq!(verdict(abi, capabilities, name, first), expect, "{name} {first:#x} {capabilities:#x}");
            }
            let program = compile(DEFAULT);
            for number in [numbers::NEWEST + 1, 0x4000_0000, 0x4000_0001, u32::MAX] {
                assert_eq!(run(&program, abi.arch, number, 0), ENOSYS, "{number}");
            }
        }
        assert_eq!(run(&compile(DEFAULT), 0x1234, 0, 0), KILL_PROCESS);
    }

    #[test]
    fn every_name_exists_somewhere_and_no_table_is_ambiguous() {
        let tables = [numbers::X86_64, numbers::I386, numbers::AARCH64];
        let calls = WITH_CAPABILITY.iter().map(|(_, calls)| *calls).chain([ALWAYS]);
        for name in calls.flat_map(str::split_ascii_whitespace) {
            let exists = tables.iter().any(|table| table.iter().any(|(known, _)| *known == name));
            assert!(exists, "{name}");
        }
        for table in tables {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].1), "numbers rise");
            assert!(table.iter().all(|(_, number)| *number <= numbers::NEWEST));
        }
    }

    #[test]
    fn the_program_fits_the_kernel() {
        assert!(compile(u64::MAX).len() < 4096);
    }
}
