//! `skep node update`.

use crate::client::{Attempts, Client};
use crate::failure::Failure;
use crate::flags::{choice, label};
use crate::render::output;
use skep_model::node::{Availability, NodeSpec, Role};
use skep_model::request::Mutation;

/// Update a node
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Host name or id
    node: String,
    /// Availability of the node (active, pause, drain)
    #[arg(long, value_parser = choice::availability)]
    availability: Option<Availability>,
    /// Add or update a node label
    #[arg(long, value_parser = label::parse, value_name = "KEY=VALUE")]
    label_add: Vec<(String, String)>,
    /// Remove a node label if exists
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Accept this host name, which the node gives instead of the one it joined with
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Role of the node (worker, manager)
    #[arg(long, value_parser = choice::role)]
    role: Option<Role>,
}

impl Update {
    /// Changes the spec as it is: it is read again if somebody else was faster.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let attempts = Attempts::begin();
        loop {
            let node = super::get(client, &self.node).await?;
            let (id, expect) = (node.id.to_string(), Some(node.spec.version));
            let spec = self.apply(node.spec.value)?;
            match client.mutate(&Mutation::UpdateNode { node: id, expect, spec }).await {
                Err(failure) if attempts.again(&failure) => {}
                Ok(_) => break,
                Err(failure) => return Err(failure),
            }
        }
        output::line(&self.node)
    }

    fn apply(&self, mut spec: NodeSpec) -> Result<NodeSpec, Failure> {
        spec.availability = self.availability.unwrap_or(spec.availability);
        spec.desired_role = self.role.unwrap_or(spec.desired_role);
        spec.hostname = self.hostname.clone().unwrap_or(spec.hostname);
        spec.labels.extend(self.label_add.iter().cloned());
        for key in &self.label_rm {
            if spec.labels.remove(key).is_none() {
                return Err(Failure::refused(format!("key {key} doesn't exist in node's labels")));
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_and_go() {
        let update = |add: &[(&str, &str)], rm: &[&str]| Update {
            node: "m1".into(),
            availability: Some(Availability::Drain),
            label_add: add.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            label_rm: rm.iter().map(|key| (*key).to_owned()).collect(),
            role: None,
            hostname: None,
        };
        let spec = update(&[("a", "1"), ("b", "2")], &["b"]).apply(NodeSpec::default()).expect("it applies");
        assert_eq!((spec.availability, spec.labels.into_keys().collect::<Vec<_>>()), (Availability::Drain, vec!["a".to_owned()]));
        let refused = update(&[], &["x"]).apply(NodeSpec::default());
        assert_eq!(refused.expect_err("there is none").text, "key x doesn't exist in node's labels");
    }
}
