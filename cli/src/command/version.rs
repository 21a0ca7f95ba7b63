//! `skep version`.

use crate::address::Address;
use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::render::output;
use serde_json::{Value, json};
use skep_model::version::{PROTOCOL_MAX, PROTOCOL_MIN, RELEASE};
use skep_proto::v1::{VersionReply, VersionRequest};
use skep_template::Format;

/// Show the versions of client and daemon
#[derive(Debug, clap::Args)]
pub struct Version {
    /// json, or a Go template
    #[arg(long, short)]
    format: Option<String>,
}

impl Version {
    /// Prints the client's version even when the daemon does not answer.
    pub async fn run(self, address: Address) -> Result<(), Failure> {
        let server = ask(address).await;
        let data = fields(server.as_ref().ok());
        match Format::parse(self.format.as_deref().unwrap_or(""))? {
            Format::Template(template) => output::line(template.render(&data)?)?,
            Format::Json => output::line(data.to_string())?,
            _ => output::write(&text(server.as_ref().ok()))?,
        }
        server.map(drop)
    }
}

async fn ask(address: Address) -> Result<VersionReply, Failure> {
    let client = Client::connect(address).await?;
    client::call(CALL_MAX, client.local().version(VersionRequest {})).await
}

fn fields(server: Option<&VersionReply>) -> Value {
    let client = json!({
        "Version": RELEASE, "Os": "linux", "Arch": architecture(), "MinProtocol": PROTOCOL_MIN, "MaxProtocol": PROTOCOL_MAX,
    });
    let server = server.map(|reply| {
        json!({
            "Version": reply.version, "Os": reply.os, "Arch": reply.architecture, "KernelVersion": reply.kernel_version,
            "FormatMax": reply.format_max, "MinProtocol": reply.protocol_min, "MaxProtocol": reply.protocol_max,
        })
    });
    json!({ "Client": client, "Server": server })
}

fn text(server: Option<&VersionReply>) -> String {
    let mut text = format!(
        "Client:\n Version:           {RELEASE}\n Protocol:          {PROTOCOL_MIN} to {PROTOCOL_MAX}\n OS/Arch:           linux/{}\n",
        architecture()
    );
    if let Some(reply) = server {
        text.push_str(&format!(
            "\nServer:\n Version:           {}\n Protocol:          {} to {}\n Stored format:     {}\n OS/Arch:           {}/{}\n Kernel Version:    {}\n",
            reply.version, reply.protocol_min, reply.protocol_max, reply.format_max, reply.os, reply.architecture, reply.kernel_version
        ));
    }
    text
}

/// As Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
