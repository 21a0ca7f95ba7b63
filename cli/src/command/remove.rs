//! Removing several objects with one command.

use crate::client::Client;
use crate::failure::{self, Failure};
use crate::render::output;
use skep_model::request::Mutation;

/// Removes each and prints it; what cannot be removed does not keep the others.
pub async fn each(client: &Client, references: Vec<String>, removal: impl Fn(String) -> Mutation) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for reference in references {
        match client.mutate(&removal(reference.clone())).await {
            Ok(_) => output::line(&reference)?,
            Err(failure) => failures.push(failure),
        }
    }
    failure::all(failures)
}
