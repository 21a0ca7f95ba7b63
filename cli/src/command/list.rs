//! What the commands that list stored objects share: their flags, and how they ask and print.

use crate::failure::Failure;
use crate::flags::filter;
use crate::render::listing::Listing;
use crate::render::output;
use skep_model::Kind;
use skep_proto::request::Query;

/// The flags of a list.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Filter output based on conditions provided
    #[arg(long, short, value_parser = filter::parse, value_name = "KEY=VALUE")]
    filter: Vec<(String, String)>,
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(long, short)]
    quiet: bool,
}

impl Flags {
    /// What to ask for; refuses filters that no list of this kind knows.
    pub fn query(&self, kind: Kind) -> Result<Query, Failure> {
        filter::check(kind, &self.filter)?;
        Ok(Query::List(kind, self.filter.clone()))
    }

    /// Prints the list.
    pub fn write(&self, listing: &Listing) -> Result<(), Failure> {
        output::write(&listing.render(self.format.as_deref(), self.quiet)?)
    }
}
