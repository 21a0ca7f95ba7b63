//! The program as users run it, against a daemon that does what a test tells it.

mod changes;
mod fake;
mod flags;
mod networks;
mod output;
mod verdicts;
