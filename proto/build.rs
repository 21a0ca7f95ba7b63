//! Generates the messages, and with feature `rpc` the clients and servers.
//!
//! Compiled by protox, so no `protoc` is needed. Maps are ordered, because
//! replicas compare encoded bytes.

use prost::Message as _;
use std::path::PathBuf;

const FILES: [&str; 9] = ["objects", "overlay", "log", "control", "dispatcher", "ca", "raft", "local", "netd"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let paths: Vec<String> = FILES.iter().map(|name| format!("proto/skep/v1/{name}.proto")).collect();
    let descriptors = protox::compile(&paths, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let rpc = std::env::var_os("CARGO_FEATURE_RPC").is_some();
    tonic_prost_build::configure()
        .build_client(rpc)
        .build_server(rpc)
        .btree_map(".")
        .skip_debug([".skep.v1.Confidential"])
        .compile_fds(descriptors)?;
    Ok(())
}
