//! Both ends of the traffic that the network tests send: servers that say who
//! they are and whom they see, and clients that count what they are told.
//!
//! It stands alone, so that it can be put into an image: threads and blocking
//! sockets, no runtime. What it prints on stdout is for tests to read; what
//! went wrong is one line on stderr and exit code 1. No client ever repeats a
//! request: a failure is a failure.

mod ask;
mod http;
mod load;
mod resolver;
mod serve;
mod strangers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Servers and clients for tests of a network.
#[derive(Debug, Parser)]
#[command(name = "traffic")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Ask(ask::Ask),
    Datagram(ask::Datagram),
    Send(ask::Send),
    Stream(ask::Stream),
    Load(load::Load),
    Resolve(ask::Resolve),
    Resolver(resolver::Resolver),
    Strangers(strangers::Strangers),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Ask(ask) => ask.run(),
        Command::Datagram(datagram) => datagram.run(),
        Command::Send(send) => send.run(),
        Command::Stream(stream) => stream.run(),
        Command::Load(load) => load.run(),
        Command::Resolve(resolve) => resolve.run(),
        Command::Resolver(resolver) => resolver.run(),
        Command::Strangers(strangers) => strangers.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}
