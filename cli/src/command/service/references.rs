//! From the names of secrets, configs and networks to the references of a spec.

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::file::File;
use skep_model::config::Config;
use skep_model::container::{ConfigReference, SecretReference};
use skep_model::secret::Secret;
use skep_model::{Kind, Object};
use std::collections::BTreeMap;

/// Looks up each secret; a target that is given twice is refused.
pub async fn secrets(client: &Client, files: &[File]) -> Result<Vec<SecretReference>, Failure> {
    check_targets("secret", files)?;
    let mut references = Vec::with_capacity(files.len());
    for file in files {
        let Secret { id, spec, .. } = match client.get(Kind::Secret, &file.source).await? {
            (Object::Secret(secret), _) => *secret,
            _ => return Err(Failure::refused("the daemon answered with an object of another kind")),
        };
        let versions: Vec<u64> = spec.versions.iter().map(|version| version.n).collect();
        check_version("secret", file, &versions)?;
        let name = spec.value.annotations.name;
        references.push(SecretReference { id, name, version: file.version, file: file.target.clone() });
    }
    Ok(references)
}

/// Looks up each config; a target that is given twice is refused.
pub async fn configs(client: &Client, files: &[File]) -> Result<Vec<ConfigReference>, Failure> {
    check_targets("config", files)?;
    let mut references = Vec::with_capacity(files.len());
    for file in files {
        let Config { id, spec, .. } = match client.get(Kind::Config, &file.source).await? {
            (Object::Config(config), _) => *config,
            _ => return Err(Failure::refused("the daemon answered with an object of another kind")),
        };
        let versions: Vec<u64> = spec.versions.iter().map(|version| version.n).collect();
        check_version("config", file, &versions)?;
        let name = spec.value.annotations.name;
        references.push(ConfigReference { id, name, version: file.version, file: file.target.clone() });
    }
    Ok(references)
}

/// The id of each network, by what it was called.
pub async fn networks(client: &Client, names: impl Iterator<Item = &String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut ids = BTreeMap::new();
    for name in names {
        match client.get(Kind::Network, name).await? {
            (Object::Network(network), _) => ids.insert(name.clone(), network.id.to_string()),
            _ => return Err(Failure::refused("the daemon answered with an object of another kind")),
        };
    }
    Ok(ids)
}

fn check_targets(what: &str, files: &[File]) -> Result<(), Failure> {
    for (n, file) in files.iter().enumerate() {
        if files[..n].iter().any(|other| other.target.name == file.target.name) {
            return Err(Failure::usage(format!("duplicate {what} target for {} not allowed", file.target.name)));
        }
    }
    Ok(())
}

fn check_version(what: &str, file: &File, versions: &[u64]) -> Result<(), Failure> {
    match file.version {
        Some(version) if !versions.contains(&version) => {
            let known: Vec<String> = versions.iter().map(u64::to_string).collect();
            let known = known.join(", ");
            Err(Failure::refused(format!("{what} {} has no version {version}; it has {known}", file.source)))
        }
        _ => Ok(()),
    }
}
