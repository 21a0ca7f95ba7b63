//! Other firewalls of the node: Docker's, ufw, firewalld, or rules of the administrator.
//!
//! Every filter that forwarded packets come by must let them pass, and what
//! [`super::guard`] accepts may be dropped by another. Where a filter drops what it
//! does not know, it gets accept rules for our bridges in the chain that it keeps for that:
//!
//! | firewall | place |
//! |---|---|
//! | Docker (`iptables-nft`) | `DOCKER-USER`, after the administrator's rules |
//! | ufw | `ufw-user-forward` and `ufw6-user-forward`, where `ufw route` writes |
//! | firewalld, others | none that is ours to write: the node says what is blocked, and what lifts it |
//!
//! A rule of ours is known by its comment. Rules of others are read, never changed. A
//! filter whose rules name our bridges is believed to know them.

use crate::netlink::uapi::*;
use crate::netlink::wire;
use crate::nft::expression::{Expr, Meta, Register, STATUS_DNAT, Verdict};
use crate::nft::object::{Rule, Table};
use crate::nft::socket::{Error, Socket};
use crate::nft::transaction::{Edit, Transaction};
use skep_netd_core::Name;

/// How the comments of our rules begin.
const COMMENT: &str = "skep: ";
/// How the names of our own tables begin.
const OURS: &str = "skep_";
/// Chains that firewalls keep for the rules of others, best first.
const PLACES: [&str; 3] = ["DOCKER-USER", "ufw-user-forward", "ufw6-user-forward"];
/// The families whose tables see forwarded packets, as `nft` calls them.
const FAMILIES: [(u8, &str); 3] =
    [(libc::NFPROTO_INET as u8, "inet"), (libc::NFPROTO_IPV4 as u8, "ip"), (libc::NFPROTO_IPV6 as u8, "ip6")];

/// A chain, as the kernel tells of it.
struct SeenChain {
    family: u8,
    table: String,
    name: String,
    /// It is one that forwarded packets come by and that may drop them.
    is_forward: bool,
    drops: bool,
}

/// A rule, as the kernel tells of it.
struct SeenRule {
    chain: String,
    handle: u64,
    expressions: Vec<u8>,
    comment: Option<String>,
}

/// Inserts accept rules for the bridges that tasks are reached by and leave by into other
/// firewalls; answers with what they block nevertheless, a sentence each.
///
/// # Errors
/// When the kernel does not tell the rules, or does not take ours.
pub fn settle(socket: &mut Socket, bridges: &[Name]) -> Result<Vec<String>, Error> {
    let chains = chains(socket)?;
    let mut blocked = Vec::new();
    for base in chains.iter().filter(|chain| chain.is_forward && !chain.table.starts_with(OURS)) {
        let table = Table { name: base.table.clone(), family: base.family };
        let rules = rules(socket, &table)?;
        if !base.drops && !rules.iter().rev().find(|rule| rule.chain == base.name).is_some_and(SeenRule::refuses_all) {
            continue;
        }
        let is_there = |place: &&&str| {
            let found =
                chains.iter().any(|chain| (chain.family, &chain.table, &*chain.name) == (base.family, &base.table, **place));
            found && rules.iter().any(|rule| rule.jumps_to(place))
        };
        match PLACES.iter().find(is_there) {
            Some(place) => insert(socket, &table, place, &rules, bridges)?,
            None if bridges.iter().all(|bridge| rules.iter().any(|rule| rule.names(bridge))) => {}
            None => {
                let passes_published = rules.iter().any(|rule| rule.chain == base.name && rule.passes_rewritten());
                blocked.push(sentence(base, bridges, passes_published));
            }
        }
    }
    Ok(blocked)
}

fn sentence(base: &SeenChain, bridges: &[Name], passes_published: bool) -> String {
    let family = FAMILIES.iter().find(|(number, _)| *number == base.family).map_or("?", |(_, name)| name);
    let names: Vec<&str> = bridges.iter().map(Name::as_str).collect();
    let fix = if base.table == "firewalld" {
        let interfaces: Vec<String> = names.iter().map(|name| format!("--add-interface={name}")).collect();
        format!("firewall-cmd --permanent --zone=trusted {} && firewall-cmd --reload", interfaces.join(" "))
    } else {
        let one = |name: &&str| {
            let at = format!("nft insert rule {family} {} {}", base.table, base.name);
            format!("{at} iifname {name} accept; {at} oifname {name} accept")
        };
        names.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    let what =
        if passes_published { "the tasks' way out is blocked" } else { "published ports and the tasks' way out are blocked" };
    format!(
        "the firewall's chain {family} {} {} drops what it does not know: {what}; let it pass the bridges of tasks: {fix}",
        base.table, base.name
    )
}

/// Brings our rules in a place in line, behind those of the administrator.
fn insert(socket: &mut Socket, table: &Table, place: &str, rules: &[SeenRule], bridges: &[Name]) -> Result<(), Error> {
    let here = || rules.iter().filter(|rule| rule.chain == place);
    let wanted: Vec<(String, Rule)> = bridges.iter().flat_map(|bridge| passes(place, bridge)).collect();
    let own = || here().filter(|rule| rule.comment.as_deref().is_some_and(|comment| comment.starts_with(COMMENT)));
    let inserted: Vec<&str> = own().filter_map(|rule| rule.comment.as_deref()).collect();
    if inserted.iter().copied().eq(wanted.iter().map(|(comment, _)| comment.as_str())) {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    for rule in own() {
        transaction.push(Edit::DeleteRule(table.clone(), place.to_owned(), rule.handle));
    }
    // What comes after a return is never asked.
    let before = here().next_back().filter(|rule| rule.returns_all()).map(|rule| rule.handle);
    for (comment, rule) in wanted {
        transaction.push(Edit::AddRemarkedRule { table: table.clone(), rule, comment, before });
    }
    tracing::info!(table = table.name, chain = place, "the firewall is told of the tasks' bridges");
    socket.commit(&transaction)
}

/// The rules that pass what comes from a bridge and goes to it: what may is decided by
/// our own table.
fn passes(chain: &str, bridge: &Name) -> [(String, Rule); 2] {
    [("from", Meta::InputName), ("to", Meta::OutputName)].map(|(word, key)| {
        // As `iptables -i NAME -j ACCEPT` is written, so that it can show it.
        let mut name = bridge.as_str().as_bytes().to_vec();
        name.push(0);
        let steps = vec![
            Expr::Meta { to: Register::FIRST, key },
            Expr::Equal { register: Register::FIRST, value: name },
            Expr::Counter,
            Expr::Verdict(Verdict::Accept),
        ];
        (format!("{COMMENT}{word} {bridge}"), Rule::new(chain, [steps]))
    })
}

fn chains(socket: &mut Socket) -> Result<Vec<SeenChain>, Error> {
    let mut found = Vec::new();
    for (family, _) in FAMILIES {
        let bodies = socket.dump(NFT_MSG_GETCHAIN, family, |_| {})?;
        found.extend(bodies.iter().filter_map(|body| SeenChain::parse(family, wire::after_nfgenmsg(body))));
    }
    Ok(found)
}

fn rules(socket: &mut Socket, table: &Table) -> Result<Vec<SeenRule>, Error> {
    let bodies = socket.dump(NFT_MSG_GETRULE, table.family, |request| request.text(NFTA_RULE_TABLE, &table.name).done())?;
    let rules = bodies.iter().map(|body| wire::after_nfgenmsg(body));
    let of_table = |attributes: &&[u8]| wire::find(attributes, NFTA_RULE_TABLE).map(wire::text).as_ref() == Some(&table.name);
    Ok(rules.filter(of_table).filter_map(SeenRule::parse).collect())
}

impl SeenChain {
    fn parse(family: u8, attributes: &[u8]) -> Option<Self> {
        let text = |kind| wire::find(attributes, kind).map(wire::text);
        let hook =
            wire::find(attributes, NFTA_CHAIN_HOOK).and_then(|hook| wire::find(hook, NFTA_HOOK_HOOKNUM)).and_then(wire::be32);
        let is_forward = hook == Some(libc::NF_INET_FORWARD as u32) && text(NFTA_CHAIN_TYPE).as_deref() == Some("filter");
        let drops = wire::find(attributes, NFTA_CHAIN_POLICY).and_then(wire::be32) == Some(libc::NF_DROP as u32);
        Some(Self { family, table: text(NFTA_CHAIN_TABLE)?, name: text(NFTA_CHAIN_NAME)?, is_forward, drops })
    }
}

impl SeenRule {
    fn parse(attributes: &[u8]) -> Option<Self> {
        let handle = wire::find(attributes, NFTA_RULE_HANDLE)?;
        Some(Self {
            chain: wire::text(wire::find(attributes, NFTA_RULE_CHAIN)?),
            handle: u64::from_be_bytes(handle.get(..8)?.try_into().ok()?),
            expressions: wire::find(attributes, NFTA_RULE_EXPRESSIONS).unwrap_or_default().to_vec(),
            comment: wire::find(attributes, NFTA_RULE_USERDATA).and_then(comment),
        })
    }

    /// Names and contents of its expressions.
    fn steps(&self) -> impl Iterator<Item = (String, &[u8])> {
        let step = |element| {
            let name = wire::text(wire::find(element, NFTA_EXPR_NAME)?);
            Some((name, wire::find(element, NFTA_EXPR_DATA).unwrap_or_default()))
        };
        wire::attributes(&self.expressions).filter_map(move |(_, element)| step(element))
    }

    /// The verdict of a rule that asks nothing: its code as a signed number.
    fn unconditional(&self) -> Option<i32> {
        let mut verdict = None;
        for (name, data) in self.steps() {
            match name.as_str() {
                "counter" | "log" => {}
                "reject" => verdict = Some(libc::NF_DROP),
                "immediate" => {
                    let path = [NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE];
                    let code = path.into_iter().try_fold(data, wire::find);
                    verdict = code.and_then(wire::be32).map(u32::cast_signed);
                }
                _ => return None,
            }
        }
        verdict
    }

    fn refuses_all(&self) -> bool {
        self.unconditional() == Some(libc::NF_DROP)
    }

    fn returns_all(&self) -> bool {
        self.unconditional() == Some(libc::NFT_RETURN)
    }

    /// Whether it accepts what conntrack rewrote, as firewalld does (`ct status dnat
    /// accept`): connections to published ports are.
    fn passes_rewritten(&self) -> bool {
        const ACCEPT: [u8; 4] = libc::NF_ACCEPT.to_be_bytes();
        let steps: Vec<(String, &[u8])> = self.steps().filter(|(name, _)| name != "counter").collect();
        let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
        names == ["ct", "bitwise", "cmp", "immediate"]
            && wire::find(steps[0].1, NFTA_CT_KEY).and_then(wire::be32) == Some(libc::NFT_CT_STATUS as u32)
            && contains(steps[1].1, &STATUS_DNAT.to_ne_bytes())
            && contains(steps[3].1, &ACCEPT)
    }

    /// Whether it jumps or goes to a chain.
    fn jumps_to(&self, chain: &str) -> bool {
        let name = [chain.as_bytes(), &[0]].concat();
        contains(&self.expressions, &name)
    }

    /// Whether it asks for a bridge by its name, or for names that begin as ours.
    fn names(&self, bridge: &Name) -> bool {
        /// An attribute of two bytes of data.
        const PREFIX: [u8; 6] = [6, 0, 1, 0, b's', b'k'];
        contains(&self.expressions, bridge.as_str().as_bytes()) || contains(&self.expressions, &PREFIX)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The comment among a rule's user data, as `nft` writes it: type 0, length, text.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(wire::text(value));
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

/// The names of all our rules in a namespace's firewalls, for tests.
#[cfg(test)]
pub(crate) fn told(socket: &mut Socket) -> std::collections::BTreeSet<(String, String)> {
    let chains = chains(socket).expect("the chains are read");
    let tables: std::collections::BTreeSet<(u8, String)> = chains.into_iter().map(|chain| (chain.family, chain.table)).collect();
    let all = tables.into_iter().flat_map(|(family, name)| rules(socket, &Table { name, family }).expect("the rules are read"));
    all.filter_map(|rule| Some((rule.chain, rule.comment?))).filter(|(_, comment)| comment.starts_with(COMMENT)).collect()
}
