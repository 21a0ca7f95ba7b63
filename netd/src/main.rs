//! `skep-netd`: programs a node's network, on the word of the node daemon.
//!
//! It may be killed at any moment: what is in the kernel stays there, and the next
//! start takes it over.

mod status;

use anyhow::Context as _;
use clap::Parser as _;
use clap::builder::NonEmptyStringValueParser;
use skep_host::process;
use skep_netd::dns::keeper::{self, Keeper};
use skep_netd::engine::Engine;
use skep_netd::kernel::Kernel;
use skep_netd::namespace::Namespaces;
use skep_netd::server;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The socket's name in the run folder.
const SOCKET: &str = "netd.sock";
/// Commands that wait while one is carried out.
const COMMANDS_MAX: usize = 64;

/// Programs links, addresses, routes, tables and names of a skep node.
///
/// It must be started before skepd, as root, and goes on when skepd is restarted.
/// It listens on RUN/netd.sock and pins the network namespaces of tasks under
/// RUN/netns/. When it is ended (SIGTERM) or killed, everything in the kernel stays
/// as it is, tasks go on to reach each other, and the next start takes it over
/// without changing a link; questions for names wait for it in sockets that a small
/// process of its own (`keep-names`) holds.
#[derive(Debug, clap::Parser)]
#[command(name = "skep-netd", version)]
struct Args {
    /// Folder for the socket and the tasks' namespaces.
    #[arg(long, default_value = "/run/skep", env = "SKEP_RUN_DIR", global = true)]
    run_dir: PathBuf,
    /// What to log, as `level` or `target=level,…`.
    #[arg(long, default_value = "info", env = "SKEP_LOG_LEVEL", value_parser = NonEmptyStringValueParser::new())]
    log_level: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Asks the running skep-netd how it fares; one thing a line.
    Status,
    /// Holds the sockets for names while skep-netd restarts; started by it.
    #[command(hide = true)]
    KeepNames,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-netd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level).context("cannot read --log-level")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    process::end_on_panic();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    match args.command {
        None => runtime.block_on(serve(args)),
        Some(Command::KeepNames) => keeper::run(&args.run_dir).context("cannot keep the sockets for names"),
        Some(Command::Status) => runtime.block_on(status::print(&args.run_dir.join(SOCKET))),
    }
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let stop = stopped()?;
    let (descriptors, _) = process::raise_descriptor_limit().context("cannot raise the limit of open files")?;
    tracing::debug!(descriptors, "open files and sockets");
    std::fs::create_dir_all(&args.run_dir).with_context(|| format!("cannot make {}", args.run_dir.display()))?;
    // Whoever has the socket is the one netd of this node; so it comes first.
    let listener = skep_host::unix::bind(&args.run_dir.join(SOCKET), None)?;
    let namespaces = Namespaces::open(&args.run_dir.join("netns"))?;
    let engine = Engine::adopt(Kernel::open(namespaces)?).await?;
    match Keeper::find(&args.run_dir) {
        Ok((keeper, held)) => engine.keep_names(keeper, held),
        Err(error) => tracing::warn!(%error, "nobody keeps the sockets for names: while netd restarts, questions are lost"),
    }
    let (commands, received) = tokio::sync::mpsc::channel(COMMANDS_MAX);
    let service = server::service(commands, engine.programmed(), engine.taken(), engine.faults());
    let serving =
        skep_host::unix::local_server().add_service(service).serve_with_incoming(skep_host::unix::LocalIncoming(listener));
    tokio::select! {
        served = process::essential("the network daemon's socket", serving) => served.context("cannot serve the socket"),
        ran = process::essential("the network daemon's loop", engine.run(received)) => ran.context("cannot watch the kernel"),
        () = stop => Ok(()),
    }
}

/// Ends when the process is told to.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
