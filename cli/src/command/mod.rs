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
use crate::{help, refused};
use clap::{CommandFactory, Parser, Subcommand};

/// Run services on a cluster of machines.
#[derive(Debug, Parser)]
#[command(name = "skep", version = skep_model::version::RELEASE, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
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
    values(help::add(refused::add(Arguments::command())))
}

/// A flag that needs a value takes the next word, whatever it begins with, as Go's do:
/// `--limit-memory -5m` is a wrong size, not an unknown flag.
fn values(mut command: clap::Command) -> clap::Command {
    command = command.mut_args(|argument| {
        let is_needed = argument.get_num_args().is_none_or(|n| n.min_values() > 0);
        let takes = !argument.is_positional() && argument.get_action().takes_values() && is_needed;
        if takes { argument.allow_hyphen_values(true) } else { argument }
    });
    command.mut_subcommands(values)
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
        ErrorKind::ValueValidation => Err(Failure::usage(wrong_value(error))),
        _ => Err(Failure::usage(one_line(&error.render().to_string()))),
    }
}

/// What is wrong with a value: its flag, the value and the fix, each said once.
fn wrong_value(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (argument, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if reason.is_empty() {
        return one_line(&error.render().to_string());
    }
    // A short value may be a part of any word.
    let is_quoted = [format!("{value:?}"), format!("'{value}'")].iter().any(|quoted| reason.contains(quoted));
    let says_value = reason.starts_with("invalid ") || is_quoted || value.len() > 2 && reason.contains(value);
    let line = match argument.split(' ').next().filter(|flag| flag.starts_with('-')) {
        _ if !says_value => format!("invalid value '{value}' for '{argument}': {reason}"),
        Some(flag) => format!("{flag}: {reason}"),
        None => reason,
    };
    crate::render::text::cell(&line)
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
