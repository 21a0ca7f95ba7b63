//! What every daemon of a node does: what it does first, and how it ends when it must.
//!
//! A panic ends the process, wherever it is, unless it is caught on purpose
//! (`skep_model::guard`): half of a daemon that others take for a whole one is worse than
//! none. Containers live on, and whoever supervises the daemon starts it again. A loop that
//! a daemon cannot do without is named in the sentence.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::PanicHookInfo;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skep_model::guard;

/// The exit code of a daemon that ended itself because going on would be wrong
/// (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_FAULT: i32 = 70;
/// Names the faults that a test plants, as `PLACE=WHAT` separated by commas; debug
/// builds read it.
const PLANTED: &str = "SKEP_TEST_PANIC";

/// Ends the process at once, with a sentence and [`EXIT_FAULT`].
pub fn end(sentence: &str) -> ! {
    tracing::error!("{sentence}");
    eprintln!("{sentence}; this process ends, and containers go on");
    std::process::exit(EXIT_FAULT)
}

/// From now on a panic that nothing catches on purpose ends the process. Every daemon calls
/// it first.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !is_caught() {
            end(&sentence(panic));
        }
    }));
}

/// Guards that threads of a library work for.
static WITH_HELPERS: AtomicUsize = AtomicUsize::new(0);

/// As [`guard::catch`], where a library has threads of its own work at it, which have no
/// name and hand their panics on to this one.
///
/// # Errors
/// What the panic said.
pub fn catch_with_helpers<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    WITH_HELPERS.fetch_add(1, Ordering::SeqCst);
    let done = guard::catch(act);
    WITH_HELPERS.fetch_sub(1, Ordering::SeqCst);
    done
}

fn is_caught() -> bool {
    guard::is_caught() || (WITH_HELPERS.load(Ordering::SeqCst) > 0 && std::thread::current().name().is_none())
}

fn sentence(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    format!("a thread of this daemon{place} panicked: {}", guard::text(panic.payload()))
}

/// Runs what the process cannot do without: a panic in it ends the process. `what`
/// names it in the sentence.
pub async fn essential<F: Future>(what: &'static str, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        guard::catch(|| future.as_mut().poll(context)).unwrap_or_else(|said| end(&format!("{what} panicked: {said}")))
    })
    .await
}

/// Runs what the process cannot do without and what only ends when it is told to.
pub async fn essential_until_stopped<F: Future>(what: &'static str, stop: tokio_util::sync::CancellationToken, future: F) {
    essential(what, future).await;
    if !stop.is_cancelled() {
        end(&format!("{what} ended although nobody asked it to"));
    }
}

/// What a test wants to go wrong at a place; always `None` in a release build.
pub fn planted(place: &str) -> Option<&'static str> {
    static FAULTS: OnceLock<String> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return None;
    }
    let faults = FAULTS.get_or_init(|| std::env::var(PLANTED).unwrap_or_default());
    faults.split(',').filter_map(|fault| fault.split_once('=')).find(|(at, _)| *at == place).map(|(_, what)| what)
}

/// Panics if a test wants that at a place once it meets what is named `name`.
#[track_caller]
pub fn panic_if_planted(place: &str, name: &str) {
    if planted(place) == Some(name) {
        panic!("planted in {place} for {name}");
    }
}

/// Raises the number of files and sockets that this process may have open to the most
/// that it is allowed, and says how many that are and how many it was before. What the
/// daemon starts for others is to get the number from before: see [`descriptors_before`].
///
/// # Errors
/// If the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let before = *BEFORE.get_or_init(|| soft);
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((hard, before))
}

static BEFORE: OnceLock<u64> = OnceLock::new();

/// The soft limit of open files before it was raised; `None` if it was not.
pub fn descriptors_before() -> Option<u64> {
    BEFORE.get().copied()
}

/// Gives a process that this one has started the soft limit of open files from before
/// [`raise_descriptor_limit`], for itself and for what it starts.
///
/// # Errors
/// If the kernel refuses, or the process is gone.
pub fn give_back_descriptor_limit(pid: u32) -> io::Result<()> {
    let Some(before) = descriptors_before() else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = libc::rlimit { rlim_cur: before.min(hard), rlim_max: hard };
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the new limit is read for the length of the call, and no old one is asked for.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many files and sockets this process may have open now.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// A step of hardening that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// The process would stay open to core dumps and tracing.
    #[error("cannot forbid core dumps and tracing (PR_SET_DUMPABLE)")]
    Dumpable(#[source] io::Error),
    /// The core file limit stays.
    #[error("cannot set the core file limit to 0 (RLIMIT_CORE)")]
    CoreLimit(#[source] io::Error),
}

/// Forbids core dumps, and reading this process's memory by others of its user.
/// A child that executes another program is dumpable again, but its own core limit is 0 as well. The hard limit stays: a
/// task may ask for cores of its own.
///
/// # Errors
/// Says which step the kernel refused.
pub fn harden() -> Result<(), HardenError> {
    nix::sys::prctl::set_dumpable(false).map_err(|errno| HardenError::Dumpable(errno.into()))?;
    let set = getrlimit(Resource::RLIMIT_CORE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, 0, hard));
    set.map_err(|errno| HardenError::CoreLimit(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_librarys_nameless_threads_are_in_the_guard_that_they_work_for() {
        let elsewhere = |name: Option<&str>| {
            let builder = name.map_or_else(std::thread::Builder::new, |name| std::thread::Builder::new().name(name.into()));
            std::thread::scope(|scope| builder.spawn_scoped(scope, is_caught).unwrap().join().unwrap())
        };
        assert!(!elsewhere(None));
        assert_eq!(catch_with_helpers(|| (elsewhere(None), elsewhere(Some("ours")))), Ok((true, false)));
        assert!(!elsewhere(None));
    }

    #[test]
    fn a_hardened_process_leaves_no_core() {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        harden().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, hard));
    }

    /// In processes of their own, since what it is about ends them.
    #[test]
    fn a_panic_ends_the_process_with_a_sentence_and_a_code_unless_it_is_caught_on_purpose() {
        const CHILD: &str = "SKEP_TEST_PANIC_CHILD";
        if let Some(kind) = std::env::var_os(CHILD) {
            end_on_panic();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            // Tasks of the runtime that nobody waits for.
            match kind.to_str().unwrap() {
                "essential" => drop(runtime.spawn(essential("the loop", async { panic!("of its own") }))),
                "task" => drop(runtime.spawn(async { panic!("of its own") })),
                "blocking" => drop(runtime.spawn_blocking(|| panic!("of its own"))),
                "thread" => drop(std::thread::spawn(|| panic!("of its own"))),
                _ => {
                    let guarded = runtime.spawn(async { guard::catch(|| panic!("of its own")).map(|()| 0) });
                    assert_eq!(runtime.block_on(guarded).unwrap(), Err("of its own".into()));
                    return;
                }
            }
            runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_secs(20)).await });
            return;
        }
        let name = "process::tests::a_panic_ends_the_process_with_a_sentence_and_a_code_unless_it_is_caught_on_purpose";
        let of_thread = "a thread of this daemon at node/host/src/process.rs:";
        for (kind, code, words) in [
            ("essential", EXIT_FAULT, "the loop panicked: of its own; this process ends"),
            ("task", EXIT_FAULT, of_thread),
            ("blocking", EXIT_FAULT, of_thread),
            ("thread", EXIT_FAULT, of_thread),
            ("guarded", 0, "of its own"),
        ] {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(CHILD, kind)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stderr);
            assert_eq!(child.status.code(), Some(code), "{kind}: {said}");
            assert!(said.contains(words), "{kind}: {said}");
            assert_eq!(said.contains("panicked: of its own; this process ends"), code != 0, "{kind}: {said}");
        }
    }

    #[test]
    fn the_limit_of_descriptors_is_the_most_that_is_allowed() {
        let (raised, before) = raise_descriptor_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, raised), (hard, hard));
        assert!(before <= hard);
        assert_eq!(raise_descriptor_limit().unwrap().1, before, "what was before stays known");
        assert_eq!(descriptors_before(), Some(before));
        // What is started has the number from before again.
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        give_back_descriptor_limit(child.id()).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let found: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(found, [before, hard]);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
