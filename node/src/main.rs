//! `skepd`: one node. It composes the agent, which always runs while the node is
//! in a cluster, and the manager, which runs while the node's certificate says so.
//!
//! Invariants: nothing in here decides about the cluster; whatever a node must
//! remember is on disk before anyone is told of it, so that the process may be
//! killed at any moment; ending the process, however, touches no container.

mod address;
mod args;
mod failure;
mod identity;
mod images;
mod info;
mod init;
mod join;
mod leave;
mod local_api;
mod local_control;
mod member;
mod node;
mod reach;
mod readdress;
mod renew;
mod roles;
mod state;
mod unlock;

use anyhow::Context as _;
use clap::Parser as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skepd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: args::Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level).context("cannot read --log-level")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    skep_host::process::end_on_panic();
    skep_identity::tls::install_crypto_provider();
    let (descriptors, _) = skep_host::process::raise_descriptor_limit().context("cannot raise the limit of open files")?;
    tracing::debug!(descriptors, "open files and sockets");
    skep_host::process::harden().context("cannot protect this process's keys")?;
    skep_host::clock::set_offset_ms(args.clock_offset_ms).context("cannot set the clock offset")?;
    let settings = args.settings()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let node = node::Node::open(settings).await?;
        local_api::serve(node).await?;
        anyhow::Ok(())
    })?;
    // What still runs has had its deadline.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(())
}
