//! The clocks of the shells, each through one function.
//!
//! Whatever is timed (timers, deadlines, silence) counts in [`boot`] time: it grows
//! steadily, also while the machine sleeps, and nobody can set it. A [`Timer`] and
//! [`sleep`] wait by it. tokio's own timers stand still while the machine sleeps; they
//! are for waits for an answer, which does not come meanwhile either. Wall time is for
//! people and certificates.
//!
//! A test starts a node with another time by an offset that the binary sets once,
//! before anything else reads the clock; TLS reads the same clock. Cores take the time as an argument and never call this.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_model::{Now, Time};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

static OFFSET_MS: OnceLock<i64> = OnceLock::new();

/// The offset was set before; it can be set only once in a process.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the clock offset is already set to {0} ms")]
pub struct OffsetAlreadySet(pub i64);

/// Moves this process's wall clock by `offset_ms` milliseconds, for good.
///
/// # Errors
/// If an offset was set before.
pub fn set_offset_ms(offset_ms: i64) -> Result<(), OffsetAlreadySet> {
    OFFSET_MS.set(offset_ms).map_err(|_| OffsetAlreadySet(offset_ms_set()))
}

/// The offset in force, in milliseconds.
pub fn offset_ms_set() -> i64 {
    OFFSET_MS.get().copied().unwrap_or(0)
}

/// The wall time, offset included. A clock before 1970 reads as 1970.
#[allow(clippy::disallowed_methods)] // This is the one function that reads the wall clock.
pub fn now() -> Time {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shifted(Time::ZERO + real, offset_ms_set())
}

/// Boot time of this machine: see [`Time`].
pub fn boot() -> Time {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure that is passed.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    assert!(done == 0, "this kernel has no CLOCK_BOOTTIME, which Linux has since 2.6.39");
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// What both clocks show.
pub fn read() -> Now {
    Now { boot: boot(), wall: now() }
}

/// Waits for boot times, one after the other: for a loop that is woken often.
#[derive(Debug)]
pub struct Timer {
    /// `None` if the system had no descriptor left: then it looks at the clock again and again.
    fd: Option<AsyncFd<OwnedFd>>,
    armed: Option<Time>,
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Timer {
    /// How long is slept between two looks at the clock where there is no timer of the kernel's.
    const LOOK: Duration = Duration::from_millis(500);

    /// A timer that is not set. It belongs to the tokio runtime that it is made in.
    pub fn new() -> Self {
        let fd = boot_timer().and_then(|fd| {
            // SAFETY: an owned descriptor stays open, and the same, for as long as it is registered.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(|error| error.into_parts().1)
        });
        if let Err(error) = &fd {
            tracing::warn!(%error, "could not make a timer; looking at the clock instead");
        }
        Self { fd: fd.ok(), armed: None }
    }

    /// Waits until boot time is `at`; for ever for `None`. May be dropped and called again.
    pub async fn until(&mut self, at: Option<Time>) {
        let Some(at) = at else { return std::future::pending().await };
        while boot() < at {
            let armed = self.armed == Some(at);
            let Some(fd) = self.fd.as_ref().filter(|fd| armed || arm(fd.get_ref(), at).is_ok()) else {
                tokio::time::sleep(at.since(boot()).min(Self::LOOK)).await;
                continue;
            };
            self.armed = Some(at);
            match fd.readable().await {
                Ok(mut ready) => drop(ready.try_io(|fd| take_expirations(fd.get_ref()))),
                Err(_) => self.fd = None,
            }
        }
    }
}

/// Waits for as long, the machine's sleep included.
pub async fn sleep(duration: Duration) {
    let until = boot() + duration;
    Timer::new().until(Some(until)).await;
}

fn boot_timer() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the descriptor is new and nobody else's.
    unsafe {
        match libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

fn arm(fd: &OwnedFd, at: Time) -> io::Result<()> {
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // A time of zero would disarm it; it is past in any case.
    let at = at.0.max(1);
    let value = libc::timespec {
        tv_sec: libc::time_t::try_from(at / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: (at % 1_000_000_000) as libc::c_long,
    };
    let setting = libc::itimerspec { it_interval: never, it_value: value };
    // SAFETY: the setting outlives the call, and the kernel takes null for the old one.
    let done = unsafe { libc::timerfd_settime(fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &setting, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn take_expirations(fd: &OwnedFd) -> io::Result<()> {
    let mut count = [0_u8; 8];
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whole seconds since 1970 of a time.
pub fn unix_seconds(time: Time) -> u64 {
    time.0 / 1_000_000_000
}

/// A time as people read it, in UTC: `2026-01-31T08:15:00Z`.
pub fn readable(time: Time) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn shifted(time: Time, offset_ms: i64) -> Time {
    let by = Duration::from_millis(offset_ms.unsigned_abs());
    if offset_ms < 0 { time - by } else { time + by }
}

/// Days since 1970 to year, month and day of the Gregorian calendar: years are
/// counted from March, so that the leap day is the last of a year.
fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        for (seconds, expect) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(readable(Time(seconds * 1_000_000_000)), expect);
        }
    }

    #[test]
    fn an_offset_moves_both_ways() {
        let noon = Time::from_millis(10_000);
        assert_eq!(shifted(noon, 500), Time::from_millis(10_500));
        assert_eq!(shifted(noon, -500), Time::from_millis(9_500));
        assert_eq!(shifted(noon, i64::MIN), Time::ZERO);
    }

    #[tokio::test]
    async fn a_timer_waits_by_boot_time_and_may_be_set_anew() {
        let (start, ms) = (boot(), Duration::from_millis);
        let mut timer = Timer::new();
        let far = Some(start + Duration::from_secs(3600));
        assert!(tokio::time::timeout(ms(20), timer.until(far)).await.is_err());
        timer.until(Some(start + ms(40))).await;
        assert!(boot() >= start + ms(40));
        assert!(tokio::time::timeout(ms(20), timer.until(far)).await.is_err(), "it has not kept that it rang");
        timer.until(Some(Time::ZERO)).await;
        // Without a descriptor it looks at the clock.
        let mut poor = Timer { fd: None, armed: None };
        poor.until(Some(boot() + ms(5))).await;
        sleep(ms(5)).await;
        assert!(boot() < start + Duration::from_secs(60));
    }
}
