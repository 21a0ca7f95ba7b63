//! `skep image pull`.

use crate::client::{self, Client};
use crate::command::input;
use crate::failure::Failure;
use crate::render::{output, size};
use skep_proto::v1::{Confidential, ImageProgress, ImagePullRequest, Platform, RegistryAuth};
use std::io::IsTerminal;
use std::time::Duration;
use tonic::Streaming;

/// Between two signs of life of the daemon while it downloads.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Download an image from a registry
#[derive(Debug, clap::Args)]
pub struct Pull {
    /// NAME[:TAG|@DIGEST]
    #[arg(value_name = "IMAGE")]
    reference: String,
    /// Set platform, as os/architecture
    #[arg(long, value_parser = platform, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Speak plain HTTP with the registry
    #[arg(long)]
    insecure: bool,
    /// User at the registry; the password is read from standard input or asked for
    #[arg(long)]
    username: Option<String>,
    /// Suppress verbose output
    #[arg(long, short)]
    quiet: bool,
}

impl Pull {
    /// Pulls, showing how far it has got.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let auth = match self.username {
            Some(username) => {
                let password = input::hidden_line("Password: ")?;
                Some(RegistryAuth { username, password: Some(Confidential::new(password.as_bytes())) })
            }
            None => None,
        };
        let request = ImagePullRequest { reference: self.reference, auth, platform: self.platform, insecure: self.insecure };
        let mut stream = client::call(SILENCE_MAX, client.local().image_pull(request)).await?;
        show(&mut stream, SILENCE_MAX, self.quiet).await
    }
}

fn platform(text: &str) -> Result<Platform, String> {
    match text.split_once('/') {
        Some((os, architecture)) if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform { os: os.into(), architecture: architecture.into() })
        }
        _ => Err(format!("invalid platform {text:?}: write it as linux/amd64")),
    }
}

/// Shows the progress of one node until it is done.
pub async fn show(stream: &mut Streaming<ImageProgress>, silence: Duration, quiet: bool) -> Result<(), Failure> {
    let is_live = !quiet && std::io::stderr().is_terminal();
    let mut is_done = false;
    while let Some(progress) = client::next_within(stream, silence).await? {
        if !progress.error.is_empty() {
            eprint!("{}", erase(is_live));
            return Err(Failure::refused(progress.error));
        }
        is_done |= progress.done;
        if !progress.done && is_live {
            eprint!("{}{}", erase(true), status(&progress));
        } else if progress.done {
            eprint!("{}", erase(is_live));
            if !quiet && !progress.message.is_empty() {
                output::line(&progress.message)?;
            } else if !quiet {
                for reference in &progress.references {
                    output::line(format!("Loaded image: {reference}"))?;
                }
            }
        }
    }
    if is_done { Ok(()) } else { Err(Failure::connection("the daemon stopped before the image was loaded")) }
}

/// Goes back to the beginning of the line and empties it.
fn erase(is_live: bool) -> &'static str {
    if is_live { "\r\x1b[K" } else { "" }
}

fn status(progress: &ImageProgress) -> String {
    let step = if progress.message.is_empty() { &progress.state } else { &progress.message };
    match progress.total {
        0 if progress.bytes == 0 => step.clone(),
        0 => format!("{step} {}", size::decimal(progress.bytes)),
        total => format!("{step} {}/{}", size::decimal(progress.bytes), size::decimal(total)),
    }
}
