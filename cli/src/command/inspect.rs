//! What the commands that inspect stored objects share: their flags, and how they print.

use crate::failure::Failure;
use crate::render::{inspect, output};
use serde::Serialize;
use skep_template::Shape;

/// The flags of an inspection.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// json, or a Go template
    #[arg(long, short, conflicts_with = "pretty")]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
}

impl Flags {
    /// Whether the text for people is asked for.
    pub fn is_pretty(&self) -> bool {
        self.pretty
    }

    /// Prints what was found: each as `pretty` has it, or as `json` under the format, in
    /// which a template may name whatever `shape` knows.
    pub fn write<T, J: Serialize>(
        &self,
        found: &[T],
        shape: Shape,
        pretty: impl Fn(&T) -> String,
        json: impl Fn(&T) -> J,
    ) -> Result<(), Failure> {
        if self.pretty {
            let texts: Vec<String> = found.iter().map(pretty).collect();
            return output::write(&texts.join("\n"));
        }
        let objects: Vec<J> = found.iter().map(json).collect();
        output::write(&inspect::render(&objects, shape, self.format.as_deref())?)
    }
}
