//! What Swarm has and this version does not: refused by name, never ignored.
//!
//! The flags and commands of this table are part of the grammar, hidden from the
//! help, so that their values are parsed as Swarm parses them; using one ends with
//! exit code 2 and its name.

use crate::failure::Failure;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag of a command: its long name, its short one, whether it takes a value.
type Flag = (&'static str, Option<char>, bool);

const SWARM: &[Flag] = &[("external-ca", None, true), ("max-snapshots", None, true)];

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
    (&["swarm", "init"], &[SWARM]),
    (&["swarm", "update"], &[SWARM]),
    (&["service", "create"], &[SERVICE, SERVICE_CREATE]),
    (&["service", "update"], &[SERVICE, SERVICE_UPDATE]),
    (&["secret", "create"], &[SECRET_CREATE]),
    (&["config", "create"], &[&[("template-driver", None, true)]]),
    (&["network", "create"], &[NETWORK_CREATE]),
];

/// A command: its name, and what does its work here, if anything.
type Verb = (&'static str, &'static str);

/// Commands, with the folder of commands that they are in.
const COMMANDS: &[(&[&str], &[Verb])] = &[
    (&[], TOP),
    (&["swarm"], &[("ca", "")]),
    (
        &["network"],
        &[
            ("connect", "use `skep service update --network-add NETWORK SERVICE`"),
            ("disconnect", "use `skep service update --network-rm NETWORK SERVICE`"),
        ],
    ),
    (
        &["image"],
        &[
            ("build", BUILD),
            ("history", IMAGES),
            ("import", LOAD),
            ("inspect", IMAGES),
            ("prune", "use `skep image rm IMAGE`"),
            ("push", REGISTRY),
            ("save", SAVE),
            ("tag", REGISTRY),
        ],
    ),
    (&["system"], &[("df", IMAGES), ("prune", "use `skep image rm` and `skep network prune`"), ("dial-stdio", "")]),
];

const ATTACH: &str = "use `skep service logs --follow SERVICE`";
const BUILD: &str = "build it elsewhere, then `skep image load` it or name its registry";
const CREATE: &str = "use `skep service create IMAGE`";
const EXEC: &str = "";
const IMAGES: &str = "use `skep image ls`";
const INSPECT: &str = "use `inspect` of its kind, such as `skep service inspect` or `skep task inspect`";
const LOAD: &str = "use `skep image load -i FILE`";
const LOGS: &str = "use `skep service logs` or `skep task logs`";
const PAUSE: &str = "use `skep service scale SERVICE=0`";
const PS: &str = "use `skep task ls`, `skep service ps` or `skep node ps`";
const REGISTRY: &str = "use a client of the registry elsewhere; `skep image pull` and services name its images";
const RESTART: &str = "use `skep service update --force SERVICE`";
const RM: &str = "use `skep service rm SERVICE`";
const SAVE: &str = "save it where it was built; `skep image load` reads the archive";
const STACK: &str = "make its services with `skep service create`";
const STATS: &str = "use `skep service ps` for tasks and `skep node ls` for nodes";
const VOLUME: &str = "use `skep service create --mount type=bind,source=PATH,target=PATH`";

/// Docker's own commands, and those of the plugins that come with it.
const TOP: &[Verb] = &[
    ("attach", ATTACH),
    ("bake", BUILD),
    ("build", BUILD),
    ("builder", BUILD),
    ("buildx", BUILD),
    ("checkpoint", ""),
    ("commit", BUILD),
    ("compose", STACK),
    ("container", PS),
    ("context", "use `skep --host ADDRESS` or SKEP_HOST"),
    ("cp", "use `skep config create` and `skep secret create` for files of a service"),
    ("create", CREATE),
    ("debug", EXEC),
    ("diff", ""),
    ("exec", EXEC),
    ("export", SAVE),
    ("history", IMAGES),
    ("images", IMAGES),
    ("import", LOAD),
    ("init", "use `skep swarm init` to make a cluster"),
    ("inspect", INSPECT),
    ("kill", RM),
    ("load", LOAD),
    ("login", REGISTRY),
    ("logout", REGISTRY),
    ("logs", LOGS),
    ("manifest", REGISTRY),
    ("model", ""),
    ("pause", PAUSE),
    ("plugin", ""),
    ("port", "use `skep service ls` for ports of services and `skep service ps` for those of tasks"),
    ("ps", PS),
    ("pull", "use `skep image pull IMAGE`"),
    ("push", REGISTRY),
    ("rename", "make the service anew: a service keeps its name"),
    ("restart", RESTART),
    ("rm", RM),
    ("rmi", "use `skep image rm IMAGE`"),
    ("run", CREATE),
    ("save", SAVE),
    ("sbom", ""),
    ("scout", ""),
    ("search", REGISTRY),
    ("stack", STACK),
    ("start", "use `skep service scale SERVICE=N`"),
    ("stats", STATS),
    ("stop", "use `skep service scale SERVICE=0`"),
    ("tag", REGISTRY),
    ("top", STATS),
    ("trust", REGISTRY),
    ("unpause", "use `skep service scale SERVICE=N`"),
    ("update", "use `skep service update SERVICE`"),
    ("volume", VOLUME),
    ("wait", "`skep service create`, `update` and `scale` wait by themselves"),
];

/// The argument that takes all words after a refused command.
const REST: &str = "refused-words";

/// Adds what is refused to the grammar.
pub fn add(mut grammar: Command) -> Command {
    for (path, names) in COMMANDS {
        grammar = at(grammar, path, |mut command| {
            for (name, _) in *names {
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
        if let Some(instead) = refusal(&path) {
            let Failure { exit, text } = Failure::unsupported(format!("the command 'skep {}'", path.join(" ")));
            let text = if instead.is_empty() { text } else { format!("{text}: {instead}") };
            return Err(Failure { exit, text });
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

/// What does the work of the refused command at this path; `None` if it is not refused.
fn refusal(path: &[&str]) -> Option<&'static str> {
    let (name, folder) = path.split_last()?;
    let verbs = COMMANDS.iter().filter(|(at, _)| *at == folder).flat_map(|(_, verbs)| *verbs);
    verbs.copied().find(|(verb, _)| verb == name).map(|(_, instead)| instead)
}

/// Whether the command at this path is refused.
#[cfg(test)]
pub fn is_refused(path: &[&str]) -> bool {
    refusal(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::grammar;

    #[test]
    fn every_verb_of_docker_is_refused_by_name_with_what_does_its_work() {
        let docker = "attach build builder buildx commit compose container context cp create diff exec export history images \
             import inspect kill load login logout logs manifest pause plugin port ps pull push rename restart rm rmi run \
             save search stack start stats stop tag top trust unpause update volume wait";
        for verb in docker.split_whitespace() {
            let matches = grammar().try_get_matches_from(["skep", verb, "-x", "--anything", "words"]).expect("it parses");
            let failure = check(&matches).expect_err("it is refused");
            let begin = format!("the command 'skep {verb}' is not supported by this version of skep");
            assert!(failure.exit == crate::failure::Exit::Usage && failure.text.starts_with(&begin), "{}", failure.text);
        }
        for (verb, hint) in [("tag", "registry"), ("login", "registry"), ("cp", "skep config create"), ("run", "service create")]
        {
            let matches = grammar().try_get_matches_from(["skep", verb]).expect("it parses");
            assert!(check(&matches).is_err_and(|failure| failure.text.contains(hint)), "{verb}");
        }
    }

    #[test]
    fn hints_name_commands_that_there_are() {
        let quoted = COMMANDS.iter().flat_map(|(_, verbs)| *verbs).flat_map(|(_, hint)| hint.split('`').skip(1).step_by(2));
        for command in quoted.filter(|command| command.starts_with("skep ")) {
            let words = command.split(' ').skip(1).take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
            let mut at = grammar();
            for word in words {
                at = at.find_subcommand(word).unwrap_or_else(|| panic!("no `{command}`")).clone();
            }
        }
    }
}
