//! The grammar of the command line and who carries out which command.

mod config;
mod confirm;
mod events;
mod image;
mod info;
mod input;
mod inspect;
mod list;
pub mod network;
pub mod node;
mod remove;
mod secret;
pub mod service;
mod swarm;
mod task;
mod version;
mod versioned;

use crate::address::{self, Address};
use crate::client::Client;
use crate::failure::Failure;
use crate::refused;
use clap::{CommandFactory, Parser, Subcommand};

/// Run services on a cluster of machines.
#[derive(Debug, Parser)]
#[command(name = "skep", version = skep_model::version::RELEASE, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = crate::failure::EXIT_CODES)]
pub struct Arguments {
    /// The daemon to ask, as unix:///PATH
    #[arg(long, short = 'H', env = "SKEP_HOST", value_name = "ADDRESS")]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, join and leave a cluster
    #[command(subcommand)]
    Swarm(swarm::Command),
    /// Look at and manage the cluster's nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Manage the networks of the cluster
    #[command(subcommand)]
    Network(network::Command),
    /// Run and change services
    #[command(subcommand)]
    Service(service::Command),
    /// Look at tasks
    #[command(subcommand)]
    Task(task::Command),
    /// Manage secrets
    #[command(subcommand)]
    Secret(secret::Command),
    /// Manage configs
    #[command(subcommand)]
    Config(config::Command),
    /// Manage the images of this node
    #[command(subcommand)]
    Image(image::Command),
    /// Look at the daemon and its events
    #[command(subcommand)]
    System(System),
    /// Get real time events from the managers
    Events(events::Events),
    /// Show what the daemon knows of itself and the cluster
    Info(info::Info),
    /// Show the versions of client and daemon
    Version(version::Version),
}

#[derive(Debug, Subcommand)]
enum System {
    /// Get real time events from the managers
    Events(events::Events),
    /// Show what the daemon knows of itself and the cluster
    Info(info::Info),
}

/// The whole grammar, with what is refused in it.
pub fn grammar() -> clap::Command {
    refused::add(Arguments::command())
}

/// Answers help and version, or says in one line what is wrong.
pub fn explain(error: &clap::Error) -> Result<(), Failure> {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => crate::render::output::write(&error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{}", error.render());
            Err(Failure::told(crate::failure::Exit::Usage))
        }
        _ => Err(Failure::usage(one_line(&error.render().to_string()))),
    }
}

/// The sentence of a usage error, without the grammar that follows it.
fn one_line(text: &str) -> String {
    let sentence = text.strip_prefix("error: ").unwrap_or(text);
    let parts = sentence.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let mut line = String::new();
    for part in parts.filter(|part| !part.is_empty()) {
        match part.strip_prefix("tip: ") {
            Some(tip) => line.push_str(&format!(" ({tip})")),
            None if line.is_empty() => line.push_str(part),
            None => line.push_str(&format!(" {part}")),
        }
    }
    line
}

/// Carries out a command.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let address = Address::parse(arguments.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address::DEFAULT))?;
    match arguments.command {
        Command::Version(version) => version.run(address).await,
        command => {
            let client = Client::connect(address).await?;
            dispatch(&client, command).await
        }
    }
}

async fn dispatch(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Swarm(command) => command.run(client).await,
        Command::Node(command) => command.run(client).await,
        Command::Network(command) => command.run(client).await,
        Command::Service(command) => command.run(client).await,
        Command::Task(command) => command.run(client).await,
        Command::Secret(command) => command.run(client).await,
        Command::Config(command) => command.run(client).await,
        Command::Image(command) => command.run(client).await,
        Command::Events(events) | Command::System(System::Events(events)) => events.run(client).await,
        Command::Info(info) | Command::System(System::Info(info)) => info.run(client).await,
        Command::Version(version) => version.run(client.address().clone()).await,
    }
}
