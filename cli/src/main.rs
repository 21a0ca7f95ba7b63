//! `skep`: the command line of a skep cluster.
//!
//! It turns words into requests of the node's local API or of the cluster's
//! control API, and answers into tables, templates or JSON. It holds no state
//! and decides nothing: what a change means is decided by the managers, and
//! whether a deployment went well is a verdict that they store and this program
//! only shows.
//!
//! Invariants: every wait has a deadline or ends by Ctrl-C; a flag acts or is
//! refused by name; an error is one line on stderr that begins with `skep: `;
//! secret values live in buffers that are zeroized.

mod address;
mod client;
mod command;
mod failure;
#[cfg(test)]
mod flag_table;
mod flags;
mod help;
mod refused;
mod render;

use clap::FromArgMatches;
use command::Arguments;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("skep: {}", failure.text);
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run() -> Result<(), Failure> {
    let matches = match command::grammar().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return command::explain(&error),
    };
    refused::check(&matches)?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(command::run(arguments));
    // A thread that still reads standard input must not keep the program alive.
    runtime.shutdown_background();
    result
}
