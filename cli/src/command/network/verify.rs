//! `skep network verify`: what every ready node reaches over the networks of the
//! cluster, asked by the leader and answered by the nodes' network daemons.

use crate::client::{self, Client};
use crate::command::node;
use crate::command::swarm::init::nanos;
use crate::failure::{Exit, Failure};
use crate::flags::duration;
use crate::render::listing::{Listing, row};
use crate::render::output;
use skep_model::NodeId;
use skep_proto::v1::{VerifyNetworksRequest, VerifyRow};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most that managers wait for nodes.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What the managers need beyond the time that the nodes have.
const WAY: Duration = Duration::from_secs(10);

/// Ask every node what it reaches over the networks: other nodes, packet sizes, names and virtual addresses
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Names or ids; none = all
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// How long the nodes have for their answers, at most 1m
    #[arg(long, default_value = "10s", value_parser = timeout, value_name = "DURATION")]
    timeout: Duration,
}

impl Verify {
    /// Prints a row for each question and a verdict; fails unless all went well.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = VerifyNetworksRequest { networks: self.networks, timeout: nanos(self.timeout) };
        let mut control = client.control();
        let reply = client::call(self.timeout + WAY, control.verify_networks(request)).await?;
        let names = node::names(client).await?;
        output::write(&listing(&reply.rows, &names).render(self.format.as_deref(), false)?)?;
        let good = verdict(&reply.rows)?;
        // A format is for programs, which have the exit code.
        if self.format.is_none() { output::line(good) } else { Ok(()) }
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("the nodes need some time to answer".into()),
        long if long > TIMEOUT_MAX => Err("it is at most 1m".into()),
        timeout => Ok(timeout),
    }
}

fn listing(rows: &[VerifyRow], names: &BTreeMap<NodeId, String>) -> Listing {
    let node = |row: &VerifyRow| {
        let id = row.node_id.parse().ok();
        id.and_then(|id: NodeId| names.get(&id)).cloned().unwrap_or_else(|| row.node_id.clone())
    };
    // A node that did not answer at all has no network and no question.
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let fields = |it: &VerifyRow| {
        let time = if it.error.is_empty() { duration::print(Duration::from_micros(it.micros)) } else { "-".to_owned() };
        row([
            ("NodeID", it.node_id.as_str().into()),
            ("Node", node(it).into()),
            ("Network", or_dash(&it.network).into()),
            ("Check", or_dash(&it.question).into()),
            ("Target", or_dash(&it.about).into()),
            ("Result", if it.error.is_empty() { "ok".to_owned() } else { it.error.replace(['\n', '\t'], " ") }.into()),
            ("Time", time.into()),
        ])
    };
    Listing {
        columns: "{{.Node}}\t{{.Network}}\t{{.Check}}\t{{.Target}}\t{{.Result}}\t{{.Time}}",
        headers: &[
            ("NodeID", "NODE ID"),
            ("Node", "NODE"),
            ("Network", "NETWORK"),
            ("Check", "CHECK"),
            ("Target", "TARGET"),
            ("Result", "RESULT"),
            ("Time", "TIME"),
        ],
        raw: &[],
        rows: rows.iter().map(fields).collect(),
        labels: Vec::new(),
        quiet: Vec::new(),
    }
}

/// One line on all rows. Where nothing was asked, nothing is known.
fn verdict(rows: &[VerifyRow]) -> Result<String, Failure> {
    let nodes: BTreeSet<&str> = rows.iter().map(|row| row.node_id.as_str()).collect();
    let networks: BTreeSet<&str> = rows.iter().map(|row| row.network.as_str()).filter(|name| !name.is_empty()).collect();
    let n_failed = rows.iter().filter(|row| !row.error.is_empty()).count();
    let failed = |text: String| Err(Failure { exit: Exit::Failed, text });
    match (rows.len(), n_failed) {
        (0, _) => failed("nothing was verified: no ready node takes part in these networks".into()),
        (n, 0) => Ok(format!("Verified: {n} checks of {} networks on {} nodes, all good", networks.len(), nodes.len())),
        (n, n_failed) => failed(format!("{n_failed} of {n} checks failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    fn asked(question: &str, about: &str, error: &str, micros: u64) -> VerifyRow {
        let network = if question.is_empty() { "" } else { "backend" };
        VerifyRow {
            node_id: sample::node().id.to_string(),
            network: network.into(),
            question: question.into(),
            about: about.into(),
            error: error.into(),
            micros,
        }
    }

    #[test]
    fn every_question_is_a_row() {
        let mut rows = vec![asked("reach", "w1", "", 412), asked("mtu", "w1", "", 1_200), asked("vip", "web", "", 95)];
        let names = BTreeMap::from([(sample::node().id, "m1".to_owned())]);
        assert_eq!(verdict(&rows).expect("good"), "Verified: 3 checks of 1 networks on 1 nodes, all good");
        rows.push(asked("dns", "web", "no answer within 1s", 1_000_000));
        rows.push(VerifyRow { node_id: "w9".into(), ..asked("", "", "it did not answer within 12 s", 0) });
        expect![[r#"
            NODE      NETWORK   CHECK     TARGET    RESULT                          TIME
            m1        backend   reach     w1        ok                              412µs
            m1        backend   mtu       w1        ok                              1.2ms
            m1        backend   vip       web       ok                              95µs
            m1        backend   dns       web       no answer within 1s             -
            w9        -         -         -         it did not answer within 12 s   -
        "#]]
        .assert_eq(&listing(&rows, &names).render(None, false).expect("a table"));
        let failure = verdict(&rows).expect_err("two are bad");
        assert_eq!((failure.exit, failure.text.as_str()), (Exit::Failed, "2 of 5 checks failed"));
        assert!(verdict(&[]).is_err(), "nothing asked is nothing known");
    }

    #[test]
    fn the_time_has_bounds() {
        assert_eq!(timeout("1m"), Ok(Duration::from_secs(60)));
        assert!(timeout("0s").is_err() && timeout("61s").is_err());
    }
}
