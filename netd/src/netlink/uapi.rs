//! Numbers of the kernel's netlink interfaces that the libc crate has no name for, or not in the type in
//! which a message carries them; each under its name in the header that is said above it.

use libc::c_int;

/// The kind of an nfnetlink message: its subsystem in the upper byte.
const fn nfnl(subsystem: c_int, message: c_int) -> u16 {
    (subsystem << 8 | message) as u16
}

// linux/netlink.h

/// NLM_F_REQUEST
pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// NLM_F_ACK
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
/// NLM_F_DUMP
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// NLM_F_DUMP_INTR
pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
/// NLM_F_CREATE
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// NLM_F_APPEND
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;
pub(crate) const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
pub(crate) const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

// linux/sock_diag.h, linux/inet_diag.h

pub(crate) const SOCK_DIAG_BY_FAMILY: u16 = 20;
pub(crate) const SKNLGRP_INET_TCP_DESTROY: u32 = 1;
pub(crate) const SKNLGRP_INET6_TCP_DESTROY: u32 = 3;
pub(crate) const INET_DIAG_INFO: u16 = 2;
pub(crate) const INET_DIAG_SKV6ONLY: u16 = 11;

// linux/netfilter/nfnetlink.h

pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
pub(crate) const NFNL_MSG_BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

// linux/netfilter/nf_tables.h

/// The subsystem of all messages of nf_tables, in the upper byte.
pub(crate) const NFTABLES: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, 0);
pub(crate) const NFT_MSG_NEWTABLE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWTABLE);
pub(crate) const NFT_MSG_GETTABLE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETTABLE);
pub(crate) const NFT_MSG_DELTABLE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_DELTABLE);
pub(crate) const NFT_MSG_NEWCHAIN: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWCHAIN);
pub(crate) const NFT_MSG_GETCHAIN: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETCHAIN);
pub(crate) const NFT_MSG_DELCHAIN: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_DELCHAIN);
pub(crate) const NFT_MSG_NEWRULE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWRULE);
pub(crate) const NFT_MSG_GETRULE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETRULE);
pub(crate) const NFT_MSG_DELRULE: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_DELRULE);
pub(crate) const NFT_MSG_NEWSET: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWSET);
pub(crate) const NFT_MSG_GETSET: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETSET);
pub(crate) const NFT_MSG_NEWSETELEM: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWSETELEM);
pub(crate) const NFT_MSG_GETSETELEM: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETSETELEM);
pub(crate) const NFT_MSG_DELSETELEM: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_DELSETELEM);
pub(crate) const NFT_MSG_NEWGEN: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_NEWGEN);
pub(crate) const NFT_MSG_GETGEN: u16 = nfnl(libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETGEN);
pub(crate) const NFTA_LIST_ELEM: u16 = 1;
pub(crate) const NFTA_TABLE_NAME: u16 = 1;
pub(crate) const NFTA_TABLE_FLAGS: u16 = 2;
pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(crate) const NFTA_RULE_TABLE: u16 = 1;
pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(crate) const NFTA_RULE_POSITION: u16 = 6;
pub(crate) const NFTA_RULE_USERDATA: u16 = 7;
pub(crate) const NFTA_SET_TABLE: u16 = 1;
pub(crate) const NFTA_SET_NAME: u16 = 2;
pub(crate) const NFTA_SET_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
pub(crate) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(crate) const NFTA_SET_DATA_LEN: u16 = 7;
pub(crate) const NFTA_SET_ID: u16 = 10;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(crate) const NFTA_DATA_VALUE: u16 = 1;
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(crate) const NFTA_EXPR_NAME: u16 = 1;
pub(crate) const NFTA_EXPR_DATA: u16 = 2;
pub(crate) const NFTA_IMMEDIATE_DREG: u16 = 1;
pub(crate) const NFTA_IMMEDIATE_DATA: u16 = 2;
pub(crate) const NFTA_BITWISE_SREG: u16 = 1;
pub(crate) const NFTA_BITWISE_DREG: u16 = 2;
pub(crate) const NFTA_BITWISE_LEN: u16 = 3;
pub(crate) const NFTA_BITWISE_MASK: u16 = 4;
pub(crate) const NFTA_BITWISE_XOR: u16 = 5;
pub(crate) const NFTA_CMP_SREG: u16 = 1;
pub(crate) const NFTA_CMP_OP: u16 = 2;
pub(crate) const NFTA_CMP_DATA: u16 = 3;
pub(crate) const NFTA_LOOKUP_SET: u16 = 1;
pub(crate) const NFTA_LOOKUP_SREG: u16 = 2;
pub(crate) const NFTA_LOOKUP_DREG: u16 = 3;
pub(crate) const NFTA_LOOKUP_SET_ID: u16 = 4;
pub(crate) const NFTA_LOOKUP_FLAGS: u16 = 5;
pub(crate) const NFTA_PAYLOAD_DREG: u16 = 1;
pub(crate) const NFTA_PAYLOAD_BASE: u16 = 2;
pub(crate) const NFTA_PAYLOAD_OFFSET: u16 = 3;
pub(crate) const NFTA_PAYLOAD_LEN: u16 = 4;
pub(crate) const NFTA_META_DREG: u16 = 1;
pub(crate) const NFTA_META_KEY: u16 = 2;
pub(crate) const NFTA_META_SREG: u16 = 3;
pub(crate) const NFTA_CT_DREG: u16 = 1;
pub(crate) const NFTA_CT_KEY: u16 = 2;
pub(crate) const NFTA_CT_SREG: u16 = 4;
pub(crate) const NFTA_FIB_DREG: u16 = 1;
pub(crate) const NFTA_FIB_RESULT: u16 = 2;
pub(crate) const NFTA_FIB_FLAGS: u16 = 3;
pub(crate) const NFTA_SOCKET_KEY: u16 = 1;
pub(crate) const NFTA_SOCKET_DREG: u16 = 2;
pub(crate) const NFTA_NG_DREG: u16 = 1;
pub(crate) const NFTA_NG_MODULUS: u16 = 2;
pub(crate) const NFTA_NG_TYPE: u16 = 3;
pub(crate) const NFTA_NAT_TYPE: u16 = 1;
pub(crate) const NFTA_NAT_FAMILY: u16 = 2;
pub(crate) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
pub(crate) const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
pub(crate) const NFTA_REJECT_TYPE: u16 = 1;
pub(crate) const NFTA_REJECT_ICMP_CODE: u16 = 2;
pub(crate) const NFTA_GEN_ID: u16 = 1;
pub(crate) const NFTA_GEN_PROC_NAME: u16 = 3;
pub(crate) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
pub(crate) const NFTA_FIB_F_DADDR: u32 = 1 << 1;
pub(crate) const NFT_SOCKET_WILDCARD: u32 = 2;

// linux/netfilter/nfnetlink_conntrack.h

pub(crate) const IPCTNL_MSG_CT_GET: u16 = nfnl(libc::NFNL_SUBSYS_CTNETLINK, 1);
pub(crate) const IPCTNL_MSG_CT_DELETE: u16 = nfnl(libc::NFNL_SUBSYS_CTNETLINK, 2);
pub(crate) const IPCTNL_MSG_CT_GET_STATS: u16 = nfnl(libc::NFNL_SUBSYS_CTNETLINK, 5);
pub(crate) const CTA_TUPLE_ORIG: u16 = 1;
pub(crate) const CTA_TUPLE_REPLY: u16 = 2;
pub(crate) const CTA_STATUS: u16 = 3;
pub(crate) const CTA_ID: u16 = 12;
pub(crate) const CTA_FILTER: u16 = 25;
pub(crate) const CTA_STATUS_MASK: u16 = 26;
pub(crate) const CTA_TUPLE_IP: u16 = 1;
pub(crate) const CTA_TUPLE_PROTO: u16 = 2;
pub(crate) const CTA_IP_V4_SRC: u16 = 1;
pub(crate) const CTA_IP_V4_DST: u16 = 2;
pub(crate) const CTA_IP_V6_SRC: u16 = 3;
pub(crate) const CTA_IP_V6_DST: u16 = 4;
pub(crate) const CTA_PROTO_NUM: u16 = 1;
pub(crate) const CTA_PROTO_DST_PORT: u16 = 3;
pub(crate) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
pub(crate) const CTA_FILTER_REPLY_FLAGS: u16 = 2;
pub(crate) const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
