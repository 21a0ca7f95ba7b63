//! The table test over every flag of Swarm: each acts or is refused by its name.
//!
//! `tests/flags.txt` lists them. That a flag *acts* is shown for services by the
//! spec, which must differ from the one without it; for all other commands by what
//! the program asks and prints (`tests/daemon/flags.rs`).

use crate::command::{grammar, service};
use crate::failure::Exit;
use crate::refused;
use skep_model::container::{ConfigReference, SecretReference};
use skep_model::service::ServiceSpec;

/// One flag: command, short and long name, value.
struct Flag {
    command: Vec<&'static str>,
    short: Option<char>,
    long: &'static str,
    value: Option<&'static str>,
}

fn table() -> (Vec<Vec<&'static str>>, Vec<Flag>) {
    let (mut commands, mut flags) = (Vec::new(), Vec::new());
    for line in include_str!("../tests/flags.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(command) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            commands.push(command.split(' ').collect::<Vec<_>>());
            continue;
        }
        let (names, value) = match line.find("--").and_then(|at| line[at..].find(' ').map(|space| at + space)) {
            Some(space) => (&line[..space], Some(&line[space + 1..])),
            None => (line, None),
        };
        let (short, long) = match names.split_once(", ") {
            Some((short, long)) => (short.chars().nth(1), long),
            None => (None, names),
        };
        let command = commands.last().expect("a command comes first").clone();
        flags.push(Flag { command, short, long: &long[2..], value });
    }
    (commands, flags)
}

/// The grammar at a command; `None` if a part of the way is refused.
fn at(path: &[&str]) -> Option<clap::Command> {
    let mut command = grammar();
    for (n, name) in path.iter().enumerate() {
        if refused::is_refused(&path[..=n]) {
            return None;
        }
        command = command.find_subcommand(name).unwrap_or_else(|| panic!("no command {path:?}")).clone();
    }
    Some(command)
}

/// Positional words that a command needs.
fn positional(command: &[&str]) -> &'static [&'static str] {
    match command {
        ["swarm", "join"] => &["10.0.0.1:2377"],
        ["swarm", "join-token"] => &["worker"],
        ["service", "scale"] => &["web=1"],
        ["service", "create"] => &["redis:7"],
        ["secret" | "config", "create"] => &["name", "-"],
        ["network", "create" | "inspect" | "rm"] => &["x"],
        ["service", "inspect" | "logs" | "ps" | "rm" | "rollback" | "update"]
        | ["node", "inspect" | "update" | "rm" | "ps"]
        | ["secret" | "config", "inspect" | "rm"] => &["x"],
        _ => &[],
    }
}

fn parse(words: &[&str]) -> clap::ArgMatches {
    let line: Vec<&str> = ["skep"].iter().chain(words).copied().collect();
    grammar().try_get_matches_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn the_grammar_is_consistent() {
    grammar().debug_assert();
}

#[test]
fn every_command_exists_or_is_refused() {
    for command in table().0 {
        if at(&command).is_none() {
            let refusal = refused::check(&parse(&command)).expect_err("refused");
            let is_named = (1..=command.len()).any(|n| refusal.text.contains(&format!("'skep {}'", command[..n].join(" "))));
            assert!(refusal.exit == Exit::Usage && is_named, "{}", refusal.text);
        }
    }
}

#[test]
fn every_flag_acts_or_is_refused_by_name() {
    let (mut n_acting, mut n_refused) = (0, 0);
    for Flag { command, short, long, value } in table().1 {
        let given = format!("--{long}");
        let mut words = command.clone();
        words.push(&given);
        words.extend(value);
        // A flag without which the command makes no sense.
        if command == ["swarm", "join"] && long != "token" {
            words.extend(["--token", "x"]);
        }
        words.extend(positional(&command));
        let Some(grammar) = at(&command) else {
            let refusal = refused::check(&parse(&words)).expect_err("the command is refused");
            assert!(refusal.text.contains("is not supported by this version of skep"), "{}", refusal.text);
            n_refused += 1;
            continue;
        };
        let argument = grammar.get_arguments().find(|argument| argument.get_long() == Some(long));
        let argument = argument.unwrap_or_else(|| panic!("{command:?} does not know {given}"));
        if let Some(short) = short {
            assert_eq!(argument.get_short(), Some(short), "{command:?} {given}");
        }
        let matches = parse(&words);
        match refused::check(&matches) {
            Ok(()) => {
                assert!(!argument.is_hide_set(), "{command:?} {given} is hidden but not refused");
                n_acting += 1;
            }
            Err(refusal) => {
                assert_eq!(
                    (refusal.exit, refusal.text),
                    (Exit::Usage, format!("{given} is not supported by this version of skep"))
                );
                n_refused += 1;
            }
        }
    }
    assert!(n_acting > 200 && n_refused > 80, "{n_acting} act, {n_refused} are refused");
}

/// Flags whose value is a word of the user's, so that every word is right.
const FREE: [&str; 44] = [
    "advertise-addr",
    "data-path-addr",
    "listen-addr",
    "external-ca",
    "token",
    "format",
    "filter",
    "label",
    "label-add",
    "label-rm",
    "container-label",
    "container-label-add",
    "container-label-rm",
    "credential-spec",
    "dns-option",
    "dns-option-add",
    "dns-option-rm",
    "dns-search",
    "dns-search-add",
    "dns-search-rm",
    "dns-rm",
    "entrypoint",
    "args",
    "env",
    "env-add",
    "env-rm",
    "env-file",
    "group",
    "group-add",
    "group-rm",
    "health-cmd",
    "host-rm",
    "hostname",
    "image",
    "name",
    "network-rm",
    "secret-rm",
    "config-rm",
    "stop-signal",
    "sysctl-rm",
    "ulimit-rm",
    "user",
    "workdir",
    "since",
];

#[test]
fn a_wrong_value_is_told_with_its_flag_once_and_the_fix() {
    let mut n_wrong = 0;
    for Flag { command, long, value, .. } in table().1 {
        let Some(grammar) = at(&command) else { continue };
        let argument = grammar.get_arguments().find(|it| it.get_long() == Some(long)).expect("it exists");
        if argument.is_hide_set() || value.is_none() || FREE.contains(&long) {
            continue;
        }
        for wrong in ["-5zz", "zz%", "99999999999999999999999999"] {
            let given = format!("--{long}");
            let mut words = command.clone();
            words.extend([given.as_str(), wrong]);
            if command == ["swarm", "join"] {
                words.extend(["--token", "x"]);
            }
            words.extend(positional(&command));
            let line: Vec<&str> = ["skep"].iter().chain(&words).copied().collect();
            // Names, which every word may be: of secrets, configs, networks.
            let Err(error) = crate::command::grammar().try_get_matches_from(&line) else { continue };
            let text = crate::command::explain(&error).expect_err("it is an error").text;
            let n_said = text.matches(wrong).count();
            assert!(text.contains(&given) && (1..=2).contains(&n_said), "{line:?}: {text}");
            for library in ["invalid digit", "IP address syntax", "unexpected argument", "too large to fit", "is not in "] {
                assert!(!text.contains(library), "{line:?}: {text}");
            }
            n_wrong += 1;
        }
    }
    assert!(n_wrong > 200, "{n_wrong}");
}

/// Flags that change how the command goes, not the spec; and those that need a
/// lookup or a file, which have their own tests.
const NOT_IN_SPEC: [&str; 9] =
    ["detach", "quiet", "no-resolve-image", "rollback", "secret", "config", "secret-add", "config-add", "env-file"];

#[test]
fn every_acting_flag_of_create_changes_the_spec() {
    let plain = service::spec_of_create(&["--name", "web", "redis:7"]);
    each_acting(&["service", "create"], |words| {
        let name: &[&str] = if words[0] == "--name" { &[] } else { &["--name", "web"] };
        let line: Vec<&str> = words.iter().chain(name).copied().chain(["redis:7"]).collect();
        assert_ne!(service::spec_of_create(&line), plain, "{words:?} changed nothing");
    });
}

#[test]
fn every_acting_flag_of_update_changes_the_spec() {
    // A service that has something to take away.
    let mut words = vec!["--name", "web", "--label", "a=b"];
    let (_, flags) = table();
    for flag in flags.iter().filter(|flag| flag.command == ["service", "create"] && is_list(flag.long)) {
        words.push(Box::leak(format!("--{}={}", flag.long, flag.value.expect("lists have values")).into_boxed_str()));
    }
    words.push("redis:7");
    let mut before = service::spec_of_create(&words);
    let container = &mut before.task_template.container_spec;
    let (secret, config) = (crate::render::sample::secret(), crate::render::sample::config());
    let file = skep_model::container::FileTarget { name: "f".into(), uid: 0, gid: 0, mode: 0o444 };
    container.secrets.push(SecretReference { id: secret.id, name: "password".into(), version: None, file: file.clone() });
    container.configs.push(ConfigReference { id: config.id, name: "settings".into(), version: None, file });
    assert_eq!(after(&before, &[]), before);
    each_acting(&["service", "update"], |words| assert_ne!(after(&before, words), before, "{words:?} changed nothing"));
}

fn after(before: &ServiceSpec, words: &[&str]) -> ServiceSpec {
    service::spec_after_update(before, words)
}

/// Lists of a service that `update` edits with `-add` and `-rm`.
fn is_list(long: &str) -> bool {
    [
        "constraint",
        "container-label",
        "dns",
        "dns-option",
        "dns-search",
        "env",
        "group",
        "host",
        "mount",
        "network",
        "placement-pref",
        "publish",
        "sysctl",
        "ulimit",
    ]
    .contains(&long)
}

fn each_acting(command: &[&str], check: impl Fn(&[&str])) {
    let refused = |flag: &Flag| {
        at(command).expect("it exists").get_arguments().any(|it| it.get_long() == Some(flag.long) && it.is_hide_set())
    };
    let mut n_checked = 0;
    for flag in table().1.iter().filter(|flag| flag.command == command && !NOT_IN_SPEC.contains(&flag.long)) {
        if refused(flag) {
            continue;
        }
        let name = format!("--{}", flag.long);
        let words: Vec<&str> = std::iter::once(name.as_str()).chain(flag.value).collect();
        check(&words);
        n_checked += 1;
    }
    assert!(n_checked > 40, "only {n_checked} flags of {command:?} were checked");
}
