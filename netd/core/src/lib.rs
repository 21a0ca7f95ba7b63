//! The brain of netd.
