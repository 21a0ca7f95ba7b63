//! What Swarm has and this version does not: refused by name, never ignored.
//!
//! The flags and commands of this table are part of the grammar, hidden from the
//! help, so that their values are parsed as Swarm parses them; using one ends with
//! exit code 2 and its name.

use crate::failure::Failure;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag of a command: its long name, its short one, whether it takes a value.
type Flag = (&'static str, Option<char>, bool);

const SERVICE: &[Flag] = &[
    ("credential-spec", None, true),
    ("init", None, false),
    ("isolation", None, true),
    ("log-driver", None, true),
    ("log-opt", None, true),
    ("max-concurrent", None, true),
    ("memory-swap", None, true),
    ("memory-swappiness", None, true),
    ("tty", Some('t'), false),
    ("with-registry-auth", None, false),
];

const SERVICE_CREATE: &[Flag] = &[("generic-resource", None, true)];

const SERVICE_UPDATE: &[Flag] = &[("generic-resource-add", None, true), ("generic-resource-rm", None, true)];

const NETWORK_CREATE: &[Flag] =
    &[("aux-address", None, true), ("config-from", None, true), ("config-only", None, false), ("ipam-opt", None, true)];

const SECRET_CREATE: &[Flag] = &[("driver", Some('d'), true), ("template-driver", None, true)];

const FLAGS: &[(&[&str], &[&[Flag]])] = &[
    (&["swarm", "init"], &[&[("external-ca", None, true)]]),
    (&["swarm", "update"], &[&[("external-ca", None, true)]]),
    (&["service", "create"], &[SERVICE, SERVICE_CREATE]),
    (&["service", "update"], &[SERVICE, SERVICE_UPDATE]),
    (&["secret", "create"], &[SECRET_CREATE]),
    (&["config", "create"], &[&[("template-driver", None, true)]]),
    (&["network", "create"], &[NETWORK_CREATE]),
];

/// Commands, with the folder of commands that they are in.
const COMMANDS: &[(&[&str], &[&str])] = &[
    (&["swarm"], &["ca"]),
    (&[], &["stack", "volume", "plugin", "container", "run", "exec", "ps", "build", "compose", "context"]),
    (&["network"], &["connect", "disconnect"]),
    (&["image"], &["build", "push", "tag", "save", "history", "import", "inspect", "prune"]),
    (&["system"], &["df", "prune", "dial-stdio"]),
];

/// The argument that takes all words after a refused command.
const REST: &str = "refused-words";

/// Adds what is refused to the grammar.
pub fn add(mut grammar: Command) -> Command {
    for (path, names) in COMMANDS {
        grammar = at(grammar, path, |mut command| {
            for name in *names {
                let rest = Arg::new(REST).num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
                command = command.subcommand(Command::new(*name).hide(true).disable_help_flag(true).arg(rest));
            }
            command
        });
    }
    for (path, lists) in FLAGS {
        grammar = at(grammar, path, |mut command| {
            for (long, short, has_value) in lists.iter().copied().flatten() {
                command = command.arg(argument(long, *short, *has_value));
            }
            command
        });
    }
    grammar
}

/// Repeated and given together with anything; a flag without a value may have one
/// after `=`, as Go's booleans.
fn argument(long: &'static str, short: Option<char>, has_value: bool) -> Arg {
    let mut argument = Arg::new(long).long(long).hide(true).action(ArgAction::Append);
    if let Some(short) = short {
        argument = argument.short(short);
    }
    if has_value {
        argument.num_args(1).allow_hyphen_values(true)
    } else {
        argument.num_args(0..=1).require_equals(true).default_missing_value("true")
    }
}

fn at(command: Command, path: &[&str], change: impl FnOnce(Command) -> Command) -> Command {
    match path {
        [] => change(command),
        [first, rest @ ..] => {
            let first: &str = first;
            command.mut_subcommand(first, |inner| at(inner, rest, change))
        }
    }
}

/// Refuses a command line that uses anything of the table.
pub fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let mut path = Vec::new();
    let mut inner = matches;
    while let Some((name, next)) = inner.subcommand() {
        path.push(name);
        inner = next;
        if is_refused(&path) {
            return Err(Failure::unsupported(format!("the command 'skep {}'", path.join(" "))));
        }
    }
    let lists = FLAGS.iter().filter(|(at, _)| *at == path.as_slice()).flat_map(|(_, lists)| lists.iter().copied().flatten());
    for (long, ..) in lists {
        if inner.value_source(long) == Some(clap::parser::ValueSource::CommandLine) {
            return Err(Failure::unsupported(format!("--{long}")));
        }
    }
    Ok(())
}

/// Whether the command at this path is refused.
pub fn is_refused(path: &[&str]) -> bool {
    let Some((name, folder)) = path.split_last() else { return false };
    COMMANDS.iter().any(|(at, names)| *at == folder && names.contains(name))
}
