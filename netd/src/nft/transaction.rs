//! A change of a namespace's rules that the kernel takes whole or not at all.

use super::expression::{Expr, Verdict};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Map, Rule, Table, layout};
use crate::netlink::uapi::*;
use crate::netlink::wire::{self, MessageWriter};

/// Bytes of elements in one message: their list is one attribute, which ends at 65,535.
const ELEMENT_BYTES_MAX: usize = 60_000;

/// One step of a transaction: what `nft` calls a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Makes a table; one that is there stays as it is.
    AddTable(Table),
    /// Removes a table with all that is in it; refused (ENOENT) when it is not there.
    DeleteTable(Table),
    /// Makes a chain; one that is there with the same hook stays as it is.
    AddChain(Table, Chain),
    /// Removes the rules of a chain.
    FlushChain(Table, String),
    /// Removes a chain that nothing points to any more.
    DeleteChain(Table, String),
    /// Makes a named set or map with its elements.
    AddMap(Table, Map),
    /// Adds elements; one that is there with the same value stays, with another is refused (EEXIST).
    AddElements(Table, String, Vec<Element>),
    /// Removes elements by their keys; refused (ENOENT) when one is not there.
    DeleteElements(Table, String, Vec<Element>),
    /// Appends a rule.
    AddRule(Table, Rule),
    /// Adds a rule with a comment to a chain of others: before the rule with this handle, or at the end.
    #[allow(missing_docs, reason = "the sentence above says it")]
    AddRemarkedRule { table: Table, rule: Rule, comment: String, before: Option<u64> },
    /// Removes the rule of a chain that has this handle.
    DeleteRule(Table, String, u64),
}

/// Changes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    edits: Vec<Edit>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one step.
    pub fn push(&mut self, edit: Edit) -> &mut Self {
        self.edits.push(edit);
        self
    }

    /// Appends the steps of another.
    pub fn append(&mut self, mut other: Self) -> &mut Self {
        self.edits.append(&mut other.edits);
        self
    }

    /// Empties a table, whether it is there or not: what follows in the same transaction fills it, and no
    /// packet ever sees it empty.
    pub fn replace_table(&mut self, table: &Table) -> &mut Self {
        self.push(Edit::AddTable(table.clone()));
        self.push(Edit::DeleteTable(table.clone()));
        self.push(Edit::AddTable(table.clone()))
    }

    /// Removes a table, whether it is there or not.
    pub fn remove_table(&mut self, table: &Table) -> &mut Self {
        self.push(Edit::AddTable(table.clone()));
        self.push(Edit::DeleteTable(table.clone()))
    }

    /// The steps in order.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The messages between BATCH_BEGIN and BATCH_END, numbered from `first`.
    pub(crate) fn encode(&self, first: u32) -> Vec<Message> {
        let mut encoder = Encoder { messages: Vec::new(), first, n_maps: 0 };
        for edit in &self.edits {
            encoder.edit(edit);
        }
        // One answer tells that all were taken; a refusal is told of without being asked for.
        if let Some(last) = encoder.messages.last_mut() {
            wire::add_flags(&mut last.bytes, ACK);
        }
        encoder.messages
    }
}

/// Cuts elements into lists that fit in an attribute.
fn chunks(mut elements: &[Element]) -> impl Iterator<Item = &[Element]> {
    std::iter::from_fn(move || {
        let mut n_bytes = 0;
        let fits = |element: &&Element| {
            n_bytes += element_bytes_max(element);
            n_bytes <= ELEMENT_BYTES_MAX
        };
        let count = elements.iter().take_while(fits).count();
        let (chunk, rest) = elements.split_at_checked(count.max(1))?;
        elements = rest;
        Some(chunk)
    })
}

/// No fewer bytes than an element takes in its message: names and values, and six attributes around them.
fn element_bytes_max(element: &Element) -> usize {
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => chain.len() + 4,
        Verdict::Accept | Verdict::Drop | Verdict::Return => 0,
    };
    let bytes = match element {
        Element::Member(key) => key.bytes().len(),
        Element::Entry(key, value) => key.bytes().len() + value.bytes().len(),
        Element::Decision(key, decision) => key.bytes().len() + verdict(decision),
    };
    bytes + 6 * 8
}

/// The message that opens a batch of nf_tables, or closes it.
pub(crate) fn bracket(end: bool, sequence: u32) -> Vec<u8> {
    let kind = if end { NFNL_MSG_BATCH_END } else { NFNL_MSG_BATCH_BEGIN };
    MessageWriter::netfilter(kind, REQUEST, sequence, 0, libc::NFNL_SUBSYS_NFTABLES as u16).finish()
}

/// An encoded message and what to call it in an error.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) what: String,
}

struct Encoder {
    messages: Vec<Message>,
    first: u32,
    /// Sets are known by a number until the transaction is committed.
    n_maps: u32,
}

impl Encoder {
    fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::AddTable(table) => {
                self.message(table, NFT_MSG_NEWTABLE, CREATE, format!("add table {}", table.name), |m| {
                    m.text(NFTA_TABLE_NAME, &table.name).be32(NFTA_TABLE_FLAGS, 0);
                });
            }
            Edit::DeleteTable(table) => {
                self.message(table, NFT_MSG_DELTABLE, 0, format!("delete table {}", table.name), |m| {
                    m.text(NFTA_TABLE_NAME, &table.name);
                });
            }
            Edit::AddChain(table, chain) => self.add_chain(table, chain),
            Edit::FlushChain(table, chain) => {
                // Of which rule is not said: all of the chain go.
                self.message(table, NFT_MSG_DELRULE, 0, format!("flush chain {} {chain}", table.name), |m| {
                    m.text(NFTA_RULE_TABLE, &table.name).text(NFTA_RULE_CHAIN, chain);
                });
            }
            Edit::DeleteChain(table, chain) => {
                self.message(table, NFT_MSG_DELCHAIN, 0, format!("delete chain {} {chain}", table.name), |m| {
                    m.text(NFTA_CHAIN_TABLE, &table.name).text(NFTA_CHAIN_NAME, chain);
                });
            }
            Edit::AddMap(table, map) => {
                let id = self.add_map(table, map, 0);
                self.elements(NFT_MSG_NEWSETELEM, CREATE, table, &map.name, Some(id), &map.elements);
            }
            Edit::AddElements(table, map, elements) => self.elements(NFT_MSG_NEWSETELEM, CREATE, table, map, None, elements),
            Edit::DeleteElements(table, map, elements) => self.elements(NFT_MSG_DELSETELEM, 0, table, map, None, elements),
            Edit::AddRule(table, rule) => self.add_rule(table, rule, None, None),
            Edit::AddRemarkedRule { table, rule, comment, before } => self.add_rule(table, rule, Some(comment), *before),
            Edit::DeleteRule(table, chain, handle) => {
                self.message(table, NFT_MSG_DELRULE, 0, format!("delete rule {handle} of {} {chain}", table.name), |m| {
                    m.text(NFTA_RULE_TABLE, &table.name).text(NFTA_RULE_CHAIN, chain);
                    m.bytes(NFTA_RULE_HANDLE, &handle.to_be_bytes());
                });
            }
        }
    }

    fn add_chain(&mut self, table: &Table, chain: &Chain) {
        self.message(table, NFT_MSG_NEWCHAIN, CREATE, format!("add chain {} {}", table.name, chain.name), |m| {
            m.text(NFTA_CHAIN_TABLE, &table.name).text(NFTA_CHAIN_NAME, &chain.name);
            let Some((kind, hook, priority)) = chain.base else { return };
            let hook = match hook {
                Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
                Hook::Input => libc::NF_INET_LOCAL_IN,
                Hook::Forward => libc::NF_INET_FORWARD,
                Hook::Output => libc::NF_INET_LOCAL_OUT,
                Hook::Postrouting => libc::NF_INET_POST_ROUTING,
            };
            let kind = match kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
                ChainKind::Route => "route",
            };
            m.nest(NFTA_CHAIN_HOOK, |nested| {
                nested.be32(NFTA_HOOK_HOOKNUM, hook as u32).bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
            });
            m.be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32).text(NFTA_CHAIN_TYPE, kind);
        });
    }

    fn add_map(&mut self, table: &Table, map: &Map, extra_flags: u32) -> u32 {
        self.n_maps += 1;
        let id = self.n_maps;
        let (key_kind, key_length) = layout(&map.key);
        self.message(table, NFT_MSG_NEWSET, CREATE, format!("add map {} {}", table.name, map.name), |m| {
            m.text(NFTA_SET_TABLE, &table.name).text(NFTA_SET_NAME, &map.name);
            m.be32(NFTA_SET_FLAGS, extra_flags | if map.gives == Gives::Membership { 0 } else { libc::NFT_SET_MAP as u32 });
            m.be32(NFTA_SET_KEY_TYPE, key_kind).be32(NFTA_SET_KEY_LEN, key_length);
            match &map.gives {
                Gives::Membership => {}
                Gives::Verdicts => m.be32(NFTA_SET_DATA_TYPE, libc::NFT_DATA_VERDICT).done(),
                Gives::Values(kinds) => {
                    let (kind, length) = layout(kinds);
                    m.be32(NFTA_SET_DATA_TYPE, kind).be32(NFTA_SET_DATA_LEN, length);
                }
            }
            m.be32(NFTA_SET_ID, id);
        });
        id
    }

    fn elements(&mut self, kind: u16, flags: u16, table: &Table, map: &str, id: Option<u32>, elements: &[Element]) {
        for chunk in chunks(elements) {
            let verb = if kind == NFT_MSG_NEWSETELEM { "add" } else { "delete" };
            let what = format!("{verb} {} elements of {} {map}", chunk.len(), table.name);
            self.message(table, kind, flags, what, |m| {
                m.text(NFTA_SET_ELEM_LIST_TABLE, &table.name).text(NFTA_SET_ELEM_LIST_SET, map);
                if let Some(id) = id {
                    m.be32(NFTA_SET_ELEM_LIST_SET_ID, id);
                }
                m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    for element in chunk {
                        encode_element(element, list);
                    }
                });
            });
        }
    }

    fn add_rule(&mut self, table: &Table, rule: &Rule, comment: Option<&String>, before: Option<u64>) {
        const ANONYMOUS_CONSTANT: u32 = (libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT) as u32;
        let own_maps: Vec<u32> = rule
            .expressions
            .iter()
            .map(|expression| {
                let Expr::LookupOwn { map, .. } = expression else { return 0 };
                let id = self.add_map(table, map, ANONYMOUS_CONSTANT);
                self.elements(NFT_MSG_NEWSETELEM, CREATE, table, Map::OWN_NAME, Some(id), &map.elements);
                id
            })
            .collect();
        let flags = if before.is_some() { CREATE } else { CREATE | APPEND };
        self.message(table, NFT_MSG_NEWRULE, flags, format!("add rule to {} {}", table.name, rule.chain), |m| {
            m.text(NFTA_RULE_TABLE, &table.name).text(NFTA_RULE_CHAIN, &rule.chain);
            m.nest(NFTA_RULE_EXPRESSIONS, |list| {
                for (expression, own_map) in rule.expressions.iter().zip(own_maps) {
                    expression.encode(own_map, list);
                }
            });
            if let Some(before) = before {
                m.bytes(NFTA_RULE_POSITION, &before.to_be_bytes());
            }
            if let Some(comment) = comment {
                // As `nft` keeps it: type 0, length, text with its ending zero.
                let mut data = vec![0, u8::try_from(comment.len() + 1).expect("our comments are short")];
                data.extend_from_slice(comment.as_bytes());
                data.push(0);
                m.bytes(NFTA_RULE_USERDATA, &data);
            }
        });
    }

    fn message(&mut self, table: &Table, kind: u16, flags: u16, what: String, fill: impl FnOnce(&mut MessageWriter)) {
        let number = u32::try_from(self.messages.len()).expect("a transaction is bounded");
        let sequence = self.first.wrapping_add(number);
        let mut message = MessageWriter::netfilter(kind, REQUEST | flags, sequence, table.family, 0);
        fill(&mut message);
        self.messages.push(Message { bytes: message.finish(), what });
    }
}

fn encode_element(element: &Element, list: &mut MessageWriter) {
    let key = match element {
        Element::Member(key) | Element::Entry(key, _) | Element::Decision(key, _) => key,
    };
    list.nest(NFTA_LIST_ELEM, |nested| {
        nested.nest(NFTA_SET_ELEM_KEY, |value| value.bytes(NFTA_DATA_VALUE, key.bytes()).done());
        match element {
            Element::Member(_) => {}
            Element::Entry(_, value) => {
                nested.nest(NFTA_SET_ELEM_DATA, |data| data.bytes(NFTA_DATA_VALUE, value.bytes()).done());
            }
            Element::Decision(_, verdict) => verdict.encode(NFTA_SET_ELEM_DATA, nested),
        }
    });
}
