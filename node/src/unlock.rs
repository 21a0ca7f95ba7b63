//! Locked keystores: opening one, and the key that does.

use crate::failure::Failure;
use crate::identity::{self, Identity};
use crate::member::Member;
use crate::node::{Node, Phase, is_wrong_key};
use skep_identity::keystore::{Keystore, UnlockKey};
use skep_model::Refusal;
use skep_proto::v1::{Confidential, UnlockKeyReply};
use std::sync::Arc;

/// Opens the keystore and takes the node's place.
///
/// # Errors
/// If it is not locked, the key is wrong, or the node cannot take its place.
pub async fn unlock(node: &Arc<Node>, key: Option<Confidential>) -> Result<(), Failure> {
    let mut phase = node.phase().await;
    let file = match &*phase {
        Phase::Locked(file) => file.clone(),
        Phase::Inactive => return Err(Failure::precondition("This node is not part of a swarm")),
        _ => return Err(Failure::precondition("swarm is not locked")),
    };
    let opened = key.as_ref().and_then(|key| key.text().ok()).ok_or(skep_identity::keystore::KeystoreError::UnlockKey);
    let opened = opened.and_then(UnlockKey::parse).and_then(|key| Keystore::unlock(&identity::folder(&node.settings.data), key));
    let keystore = opened.map_err(|error| match error {
        error if is_wrong_key(&error) => {
            Failure::from(Refusal::invalid("unlock key", "", "swarm could not be unlocked: invalid key provided"))
        }
        error => Failure::from(error),
    })?;
    node.publish_pending();
    let started = async { Member::start(node, file, Identity::of(keystore)?).await }.await;
    let done = match started {
        Ok(member) => {
            *phase = Phase::Active(Box::new(member));
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    node.publish(&phase);
    done
}

/// The key of this manager's keystore, or a new one.
///
/// # Errors
/// If the node is no manager, its keystore is not locked, or writing fails.
pub async fn unlock_key(node: &Node, rotate: bool) -> Result<UnlockKeyReply, Failure> {
    let mut phase = node.phase().await;
    let Phase::Active(member) = &mut *phase else {
        return Err(Failure::precondition("This node is not part of a swarm"));
    };
    if member.manager.is_none() {
        return Err(Failure::precondition("This node is not a swarm manager: only managers are locked"));
    }
    if member.identity.unlock_key().is_none() {
        let text = if rotate { "cannot rotate because autolock is not turned on" } else { "no unlock key is set" };
        return Err(Failure::precondition(text));
    }
    if rotate {
        member.identity.rotate_unlock_key()?;
    }
    let key = member.identity.unlock_key().map(|key| Confidential::new(key.reveal().as_bytes()));
    Ok(UnlockKeyReply { key })
}
