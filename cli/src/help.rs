//! What the help says beyond the flags themselves: headings, examples, exit codes.

use crate::failure::EXIT_CODES;
use clap::Command;

/// Flags of services by what they are about, in the order of the help. A flag of
/// `update` stands where the flag of `create` does that it edits.
const HEADINGS: &[(&str, &[&str])] = &[
    (
        "Service",
        &[
            "name",
            "mode",
            "replicas",
            "replicas-max-per-node",
            "label",
            "image",
            "no-resolve-image",
            "force",
            "rollback",
            "detach",
            "quiet",
            "timeout",
        ],
    ),
    (
        "Container",
        &[
            "args",
            "entrypoint",
            "env",
            "env-file",
            "workdir",
            "user",
            "group",
            "hostname",
            "container-label",
            "stop-signal",
            "stop-grace-period",
            "stop-drain",
            "read-only",
            "cap-add",
            "cap-drop",
            "no-new-privileges",
            "sysctl",
            "ulimit",
            "oom-score-adj",
        ],
    ),
    ("Files", &["secret", "config", "mount"]),
    ("Network", &["network", "publish", "endpoint-mode", "host", "dns", "dns-option", "dns-search"]),
    ("Placement", &["constraint", "placement-pref"]),
    ("Resources", &["limit-cpu", "limit-memory", "limit-pids", "reserve-cpu", "reserve-memory"]),
    (
        "Health",
        &[
            "health-cmd",
            "health-interval",
            "health-timeout",
            "health-retries",
            "health-start-period",
            "health-start-interval",
            "no-healthcheck",
        ],
    ),
    ("Restart", &["restart-condition", "restart-delay", "restart-max-attempts", "restart-window", "start-offline"]),
    (
        "Update",
        &[
            "update-parallelism",
            "update-delay",
            "update-order",
            "update-monitor",
            "update-failure-action",
            "update-max-failure-ratio",
        ],
    ),
    (
        "Rollback",
        &[
            "rollback-parallelism",
            "rollback-delay",
            "rollback-order",
            "rollback-monitor",
            "rollback-failure-action",
            "rollback-max-failure-ratio",
        ],
    ),
];

/// Commands that wait for a verdict, and so end with its code.
const WAITING: &[&str] = &["create", "update", "rollback", "scale"];

/// Examples of a command, by its path.
const EXAMPLES: &[(&[&str], &str)] = &[
    (&["swarm", "init"], "skep swarm init --advertise-addr 10.0.0.1\n  skep swarm init --advertise-addr eth0 --autolock"),
    (&["swarm", "join"], "skep swarm join --token SWMTKN-1-… 10.0.0.1:2377"),
    (&["swarm", "update"], "skep swarm update --task-history-limit 2\n  skep swarm update --dispatcher-heartbeat 1s"),
    (&["node", "update"], "skep node update --availability drain w1\n  skep node update --label-add zone=a w1"),
    (
        &["network", "create"],
        "skep network create --attachable backend\n  skep network create --subnet 10.9.0.0/24 --gateway 10.9.0.1 backend",
    ),
    (
        &["service", "create"],
        "skep service create --name web --replicas 3 -p 8080:80 nginx:1.27\n  \
         skep service create --name db --secret db_password --mount type=bind,src=/srv/db,dst=/data postgres:17\n  \
         skep service create --name agent --mode global --constraint node.platform.os==linux agent:2 -- --verbose",
    ),
    (
        &["service", "update"],
        "skep service update --image nginx:1.28 --update-parallelism 2 --update-failure-action rollback web\n  \
         skep service update --env-add MODE=fast --publish-rm 8080:80 web\n  \
         skep service update --force web",
    ),
    (&["service", "rollback"], "skep service rollback web"),
    (&["service", "scale"], "skep service scale web=5 db=1"),
    (&["service", "logs"], "skep service logs --follow --tail 20 web\n  skep service logs --since 10m web.1"),
    (
        &["service", "ps"],
        "skep service ps --no-trunc web\n  skep service ps --filter desired-state=running --format '{{.Name}} {{.Node}}' web",
    ),
    (&["service", "inspect"], "skep service inspect --pretty web\n  skep service inspect --format '{{.UpdateStatus.State}}' web"),
    (&["task", "inspect"], "skep task inspect web.1"),
    (&["task", "ls"], "skep task ls --filter node=w1 --filter desired-state=running"),
    (&["secret", "create"], "skep secret create db_password ./password.txt\n  openssl rand -hex 32 | skep secret create key -"),
    (&["secret", "update"], "skep secret update db_password ./new-password.txt"),
    (&["config", "create"], "skep config create app_conf ./app.conf"),
    (&["image", "load"], "skep image load -i app.tar\n  skep image load --all -i app.tar"),
    (&["events"], "skep events --since 10m --filter type=service --format json"),
];

/// Adds it to the grammar.
pub fn add(mut grammar: Command) -> Command {
    for name in ["create", "update"] {
        grammar = grammar.mut_subcommand("service", |service| service.mut_subcommand(name, |command| headed(name, command)));
    }
    for (path, examples) in EXAMPLES {
        grammar = at(grammar, path, |command| command.after_help(after(path, examples)));
    }
    grammar.after_help(EXIT_CODES)
}

fn after(path: &[&str], examples: &str) -> String {
    let waits = path[0] == "service" && WAITING.contains(&path[1]);
    let codes = if waits { format!("\n\n{EXIT_CODES}") } else { String::new() };
    format!("Examples:\n  {examples}{codes}")
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

/// The heading of a flag, and its place below it.
fn heading(long: &str) -> Option<(usize, usize)> {
    let edited = long.strip_suffix("-add").or(long.strip_suffix("-rm")).filter(|_| !long.starts_with("cap-"));
    let find = |long: &str| {
        let place = |(n, (_, flags)): (usize, &(&str, &[&str]))| Some((n, flags.iter().position(|flag| *flag == long)?));
        HEADINGS.iter().enumerate().find_map(place)
    };
    find(edited.unwrap_or(long)).map(|(n, place)| (n, 2 * place + usize::from(long.ends_with("-rm"))))
}

/// The command with its flags in the order of the headings, and under them.
fn headed(name: &'static str, command: Command) -> Command {
    let mut flags: Vec<clap::Arg> = command.get_arguments().cloned().collect();
    flags.sort_by_key(|flag| flag.get_long().and_then(heading).unwrap_or((HEADINGS.len(), 0)));
    let mut ordered = Command::new(name);
    if let Some(about) = command.get_about() {
        ordered = ordered.about(about.clone());
    }
    for (n, flag) in flags.into_iter().enumerate() {
        let at = flag.get_long().and_then(heading);
        let flag = if flag.is_positional() { flag } else { flag.display_order(n) };
        ordered = ordered.arg(match at {
            Some((heading, _)) => flag.help_heading(HEADINGS[heading].0),
            None => flag,
        });
    }
    ordered
}

#[cfg(test)]
mod tests {
    use crate::command::grammar;
    use crate::failure::Exit;

    fn help(path: &[&str]) -> String {
        let mut command = grammar();
        for name in path {
            command = command.find_subcommand(name).expect("it exists").clone();
        }
        command.render_help().to_string()
    }

    #[test]
    fn every_flag_of_a_service_stands_under_a_heading_in_one_order() {
        for name in ["create", "update"] {
            let grammar = grammar();
            let service = grammar.find_subcommand("service").and_then(|it| it.find_subcommand(name)).expect("it exists");
            for flag in service.get_arguments().filter(|flag| !flag.is_hide_set() && !flag.is_positional()) {
                let is_help = flag.get_long() == Some("help");
                assert!(is_help || flag.get_help_heading().is_some(), "--{} has no heading", flag.get_id());
            }
            let help = help(&["service", name]);
            let places: Vec<usize> = super::HEADINGS
                .iter()
                .map(|(heading, _)| help.find(&format!("\n{heading}:\n")).unwrap_or_else(|| panic!("no {heading} in {help}")))
                .collect();
            assert!(places.is_sorted(), "{help}");
        }
        let help = help(&["service", "create"]);
        let order = ["--name", "--replicas ", "--env ", "--secret", "--publish", "--limit-memory", "--update-order", "Examples:"];
        let places: Vec<usize> = order.iter().map(|word| help.find(word).expect(word)).collect();
        assert!(places.is_sorted(), "{help}");
    }

    #[test]
    fn exit_codes_stand_in_the_help() {
        for path in [&[][..], &["service", "create"], &["service", "update"], &["service", "scale"], &["service", "rollback"]] {
            let help = help(path);
            for exit in [
                Exit::Refused,
                Exit::Usage,
                Exit::Failed,
                Exit::RolledBack,
                Exit::Deadline,
                Exit::ConnectionLost,
                Exit::Detached,
                Exit::Interrupted,
            ] {
                assert!(help.contains(&format!("\n  {} ", exit.code())), "{path:?} {exit:?}: {help}");
            }
        }
    }

    #[test]
    fn examples_are_commands_that_parse() {
        for (path, examples) in super::EXAMPLES {
            assert!(help(path).contains("Examples:\n  "), "{path:?}");
            for line in examples.lines() {
                let words = shlex::split(line.rsplit(" | ").next().expect("a command")).expect("words");
                let parsed = grammar().try_get_matches_from(&words);
                let matches = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                crate::refused::check(&matches).unwrap_or_else(|failure| panic!("{line}: {}", failure.text));
            }
        }
    }
}
