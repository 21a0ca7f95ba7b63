//! The shell of netd.
