//! What the command line takes, a manager's API can read, or it names the field that it
//! cannot. The words are at and beyond the bounds of every flag of `service create`; what
//! becomes of a spec behind the API is admission's property
//! (`manager/core/src/control/border_tests.rs`).

use super::{Command, tests::Line};
use clap::Parser;
use proptest::prelude::*;
use skep_model::Refusal;
use skep_model::text::TEXT_MAX;
use skep_proto::testing::edges;

/// Flags with words that are taken, or not; `LONG` and `LONGER` stand for the longest text
/// that a task can have, and one that no message carries.
const FLAGS: &[(&str, &[&str])] = &[
    ("--config", &["c", "source=c,target=/a,uid=0,gid=4294967295,mode=0777", "source=c,mode=8", "source=", "LONG", "target=/a"]),
    ("--constraint", &["node.role==manager", "node.labels.a!=b", "node.rol==a", "node.role", "", "LONG", "LONGER"]),
    ("--container-label", &["a=b", "a", "=b", "", "LONG", "LONGER"]),
    ("--dns", &["10.0.0.1", "::1", "fe80::1%eth0", "ns", ""]),
    ("--dns-option", &["ndots:1", "a b", "", "a\nb", "LONG", "LONGER"]),
    ("--dns-search", &["example", "a b", "", "\u{7f}", "LONG", "LONGER"]),
    ("--env", &["A=1", "A=", "=1", "", "A={{.Node.ID}}", "A={{", "LONG", "LONGER"]),
    ("--group", &["a", "0", "4294967295", "", "a:b", "LONG", "LONGER"]),
    ("--host", &["db:10.0.0.1", "db=::1", "db:[::1]", "db", ":10.0.0.1", "a b:10.0.0.1", "LONG", "LONGER"]),
    ("--label", &["a=b", "=b", "LONG", "LONGER"]),
    ("--mode", &["global", "replicated", "global-job", ""]),
    (
        "--mount",
        &[
            "type=bind,source=/tmp,target=/a",
            "type=tmpfs,target=/a,tmpfs-size=1e",
            "type=tmpfs,target=/a,tmpfs-size=8191p",
            "type=tmpfs,target=/a,tmpfs-mode=7777",
            "type=tmpfs,target=/a,tmpfs-mode=10000",
            "type=tmpfs,target=/",
            "type=tmpfs,target=/a/../b",
            "type=tmpfs,target=/proc/x",
            "type=bind,source=/a,target=/b,bind-propagation=rshared",
            "type=volume,target=/a",
            "",
            "LONG",
            "LONGER",
        ],
    ),
    ("--name", &["web", "-web", "a.b", "", "LONG", "LONGER"]),
    ("--network", &["host", "none", "net", "name=net,alias=a", "alias=a", "", "LONG", "LONGER"]),
    ("--placement-pref", &["spread=node.labels.a", "spread=node.id", "binpack", "", "LONG", "LONGER"]),
    (
        "--publish",
        &["80", "8080:80/udp", "0:80", "65536:80", "80:0", "mode=host,target=80", "1-70000:1-70000", "80/sctp", "LONG"],
    ),
    ("--secret", &["s", "source=s,target=/a,uid=4294967296", "source=s,target=a/b,mode=0400", "source=s,target=../a", "LONG"]),
    ("--sysctl", &["net.core.somaxconn=1", "vm.swappiness=1", "a", "=1", "LONG", "LONGER"]),
    ("--timeout", &["1s", "1ms", "0", "2562047h", "9999999h", "x"]),
    (
        "--ulimit",
        &["nofile=1:2", "nofile=2:1", "core=-1", "core=9223372036854775807", "core=9223372036854775808", "files=1", "nofile"],
    ),
    ("--cap-add", &["ALL", "cap_all", "NET_RAW", "FLY", "", "a-b"]),
    ("--cap-drop", &["all", "CHOWN", "RESET", "é"]),
    ("--endpoint-mode", &["vip", "dnsrr", "x"]),
    ("--entrypoint", &["run -a", "'a", "", "LONG", "LONGER"]),
    ("--hostname", &["box", "-a", "a_b", "{{.Task.Slot}}", "LONG", "LONGER"]),
    ("--limit-cpu", &["0.001", "0.0009", "65536", "65536.000000001", "18446744073", "18446744074", "-1"]),
    ("--limit-memory", &["4m", "4194303", "1e", "1024p", "8191p", "8192p", "0", "-1"]),
    ("--limit-pids", &["0", "4194304", "4194305", "18446744073709551615", "18446744073709551616", "-1"]),
    ("--oom-score-adj", &["-1000", "1000", "1001", "x"]),
    ("--replicas", &["0", "100000", "100001", "-1"]),
    ("--replicas-max-per-node", &["0", "18446744073709551615", "-1"]),
    ("--reserve-cpu", &["0.5", "65537"]),
    ("--reserve-memory", &["4m", "2048p"]),
    ("--stop-drain", &["0", "1h", "2562047h", "2562048h", "-1s"]),
    ("--stop-grace-period", &["0", "1ns", "2562047h", "2562048h"]),
    ("--stop-signal", &["SIGTERM", "9", "0", "RTMIN+30", "RTMIN+31", "NOPE", "LONG"]),
    ("--user", &["app", "0:0", "4294967295", ":", "a b", "LONG", "LONGER"]),
    ("--workdir", &["/a", "a", "/a/../b", "LONG", "LONGER"]),
    ("--health-cmd", &["true", "", "LONG", "LONGER"]),
    ("--health-interval", &["1ms", "999us", "0", "2562047h"]),
    ("--health-retries", &["0", "4294967295", "4294967296"]),
    ("--health-start-period", &["1ms", "1ns"]),
    ("--restart-condition", &["none", "on-failure", "any", "x"]),
    ("--restart-delay", &["0", "2562047h", "x"]),
    ("--restart-max-attempts", &["0", "18446744073709551615", "-1"]),
    ("--restart-window", &["0", "1s"]),
    ("--update-delay", &["0", "2562047h"]),
    ("--update-failure-action", &["pause", "continue", "rollback", "x"]),
    ("--update-max-failure-ratio", &["0", "1", "1.1", "-0.1", "NaN", "inf"]),
    ("--update-monitor", &["0", "1s", "x"]),
    ("--update-order", &["start-first", "x"]),
    ("--update-parallelism", &["0", "18446744073709551615", "x"]),
    ("--rollback-failure-action", &["pause", "continue", "rollback"]),
    ("--rollback-max-failure-ratio", &["0", "1.1"]),
];

/// Flags of which every word above is taken, alone.
const UNBOUNDED: [&str; 2] = ["--restart-window", "--update-delay"];

/// Why words are not taken by anybody.
type Refused = String;

fn word(text: &str) -> String {
    match text {
        "LONG" => format!("a={}", "l".repeat(TEXT_MAX - 2)),
        "LONGER" => format!("a={}", "l".repeat(200_000)),
        _ => text.to_owned(),
    }
}

/// From the words to the API's side of the wire, and to what the model says of the spec.
fn crosses(flags: &[(&str, String)], image: &str) -> Result<Result<(), Refused>, TestCaseError> {
    let given = flags.iter().map(|(flag, word)| format!("{flag}={word}"));
    let words = ["service", "create"].map(str::to_owned).into_iter().chain(given).chain([image.to_owned()]);
    let names_a_flag = |text: &str| flags.iter().any(|(flag, _)| text.contains(flag.trim_start_matches('-')));
    let command = match Line::try_parse_from(words) {
        Ok(line) => line.command,
        Err(error) => {
            let text = error.to_string();
            prop_assert!(names_a_flag(&text) || text.contains("IMAGE"), "no flag is named: {text}");
            return Ok(Err(text));
        }
    };
    let Command::Create(create) = command else { return Err(TestCaseError::fail("another command")) };
    let spec = match create.spec() {
        Ok(spec) => spec,
        Err(failure) => {
            prop_assert!(names_a_flag(&failure.text), "no flag is named: {}", failure.text);
            return Ok(Err(failure.text));
        }
    };
    match edges::received(&spec) {
        Err(refusal) => {
            let Refusal::Invalid { field, reason, .. } = &refusal else { return Err(TestCaseError::fail(refusal.to_string())) };
            prop_assert!(field.starts_with("create_service.spec") && !reason.is_empty(), "no field is named: {refusal}");
            Ok(Err(refusal.to_string()))
        }
        Ok(read) => {
            prop_assert_eq!(&read, &spec, "what reads is what was meant");
            Ok(spec.check().map_err(|refusal| refusal.to_string()))
        }
    }
}

proptest! {
    #![proptest_config(edges::config())]

    #[test]
    fn what_the_command_line_takes_the_api_reads(
        drawn in proptest::collection::vec((0..FLAGS.len(), any::<prop::sample::Index>()), 0..6),
        image in prop::sample::select(vec!["app", "app:1", "App", "a//b", "", "-a"]),
    ) {
        let flags: Vec<(&str, String)> = drawn
            .into_iter()
            .map(|(n, at)| (FLAGS[n].0, word(FLAGS[n].1[at.index(FLAGS[n].1.len())])))
            .collect();
        let _ = crosses(&flags, image)?;
    }
}

#[test]
fn every_flag_has_words_that_are_taken_and_others_that_are_not() {
    for (flag, words) in FLAGS {
        let told = |text: &&&str| match crosses(&[(flag, word(text))], "app:1") {
            Ok(told) => told.is_ok(),
            Err(error) => panic!("{flag}={text}: {error}"),
        };
        let n_taken = words.iter().filter(told).count();
        assert!(n_taken > 0, "{flag} takes nothing");
        assert!(n_taken < words.len() || UNBOUNDED.contains(flag), "{flag} takes everything");
    }
}
