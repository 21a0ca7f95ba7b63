//! `swarm leave`: the node's tasks end, and everything of the cluster goes.
//!
//! The place on disk says *leaving* first, so that a crash on the way does not
//! leave half a member. A manager tells the others; one that cannot, because they
//! are gone or it is locked or broken, leaves all the same when forced to.

use crate::failure::Failure;
use crate::identity;
use crate::member::{Member, managers_file, start_agent};
use crate::node::{LOCKED, Node, Phase};
use crate::state::{NodeFile, Stage};
use skep_agent::runtime::Folders;
use skep_identity::keystore::Keystore;
use skep_manager::{ControlApi, Manager};
use skep_model::Refusal;
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::read_request::Query;
use skep_proto::v1::{ClusterInfoQuery, ReadRequest};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the other managers may take to let this one go.
const GOODBYE_MAX: Duration = Duration::from_secs(10);

/// Leaves the cluster.
///
/// # Errors
/// If the node is in none, it takes force, or what is on this node cannot be removed.
pub async fn leave(node: &Arc<Node>, force: bool) -> Result<(), Failure> {
    let mut phase = node.phase().await;
    match &*phase {
        Phase::Inactive => return Err(Failure::precondition("This node is not part of a swarm")),
        Phase::Locked(_) if !force => return Err(Failure::precondition(LOCKED)),
        Phase::Broken { reason, .. } if !force => {
            return Err(Failure::precondition(format!(
                "this node cannot take leave: {reason}. Use --force to leave all the same."
            )));
        }
        Phase::Active(member) if !force => {
            if let Some(manager) = &member.manager {
                return Err(Failure::precondition(warning(managers(&manager.control()).await)));
            }
        }
        _ => {}
    }
    node.publish_pending();
    let left = std::mem::replace(&mut *phase, Phase::Inactive);
    let file = match &left {
        Phase::Locked(file) => Some(file.clone()),
        Phase::Broken { file, .. } => file.clone(),
        Phase::Active(member) => Some(member.file.clone()),
        Phase::Inactive => None,
    };
    let done = go(node, left, file.clone()).await;
    if let Err(failure) = &done {
        *phase = Phase::Broken { file, reason: format!("this node has left its cluster only in part: {}", failure.line()) };
    }
    node.publish(&phase);
    done
}

async fn go(node: &Arc<Node>, left: Phase, file: Option<NodeFile>) -> Result<(), Failure> {
    let Some(mut file) = file else {
        // `node.json` is unreadable, so nothing is known of its tasks but their folders.
        let settings = &node.settings;
        let (data, run) = (&settings.data, &settings.run);
        skep_agent::clear(data, run, &settings.cgroup_parent, run.join("netd.sock")).await?;
        return forget(data, run);
    };
    let member = match left {
        Phase::Active(mut member) => {
            member.ended.cancel();
            if let Some(manager) = member.manager.take() {
                say_goodbye(manager).await;
            }
            Some(*member)
        }
        _ => None,
    };
    file.stage = Stage::Leaving;
    file.save(&node.settings.data)?;
    finish(node, &file, member).await
}

/// Has the others drop this manager from raft, then stops it. Its consent comes
/// first, so it goes on taking part until it is out: two managers need both.
async fn say_goodbye(manager: Manager) {
    if managers(&manager.control()).await != Some(1) {
        manager.step_down().await;
        let dropped = async {
            manager.leave().await?;
            manager.removed().cancelled().await;
            Ok::<(), Refusal>(())
        };
        match tokio::time::timeout(GOODBYE_MAX, dropped).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::warn!(%refusal, "this node leaves without its managers' consent"),
            Err(_) => tracing::warn!("the other managers did not answer; this node leaves all the same"),
        }
    }
    manager.stop().await;
}

/// What is left to do once the place says *leaving*; may be repeated.
///
/// # Errors
/// If the agent cannot start, or something cannot be removed.
pub async fn finish(node: &Arc<Node>, file: &NodeFile, member: Option<Member>) -> Result<(), Failure> {
    let agent = match member {
        Some(member) => member.agent,
        // Nobody is to be spoken to: the agent only finds and ends what runs here.
        None => {
            remove_file(&managers_file(&node.settings.data))?;
            start_agent(node, file, identity::throwaway(file.node, file.cluster)?, &[]).await?
        }
    };
    agent.leave().await;
    tokio::task::block_in_place(|| forget(&node.settings.data, &node.settings.run))
}

/// Removes what a data folder and a run folder hold of a cluster, the place last.
/// Containers must have ended before.
///
/// # Errors
/// If a container still runs, or something is there and cannot be removed.
pub fn forget(data: &Path, run: &Path) -> Result<(), Failure> {
    let tasks = data.join("tasks");
    let unreadable = |source| Failure::Remove { path: tasks.clone(), source };
    if tasks.exists()
        && let Some(task) = Folders::open(data, run).and_then(|folders| folders.lives()).map_err(unreadable)?
    {
        return Err(Failure::precondition(format!(
            "task {task} still runs on this node. Stop it, or leave with --force, which ends it."
        )));
    }
    Manager::destroy(&data.join("manager"))?;
    Keystore::destroy(&identity::folder(data))?;
    remove_file(&managers_file(data))?;
    remove_file(&data.join("overlay"))?;
    for path in [data.join("assignments"), run.join("shims"), data.join("tasks")] {
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(Failure::Remove { path, source }),
            _ => {}
        }
    }
    Ok(NodeFile::remove(data)?)
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Failure::Remove { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// How many managers there are, as this one knows.
async fn managers(control: &ControlApi) -> Option<u64> {
    let query = ReadRequest { query: Some(Query::ClusterInfo(ClusterInfoQuery {})), stale: true };
    let reply = control.read(tonic::Request::new(query)).await.ok()?.into_inner();
    reply.cluster_info.map(|info| info.managers)
}

/// Swarm's warning to a manager that would leave.
fn warning(managers: Option<u64>) -> String {
    let begin = "You are attempting to leave the swarm on a node that is participating as a manager. ";
    let quorum = |count: u64| count / 2 + 1;
    let rest = match managers {
        Some(0 | 1) => {
            return format!(
                "{begin}Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
            );
        }
        Some(count) if count - 1 < quorum(count) => format!(
            "Removing this node leaves {} managers out of {count}. Without a Raft quorum your swarm will be inaccessible. ",
            count - 1
        ),
        _ => "Demote it first, so that its tasks move and the others keep their quorum. ".into(),
    };
    format!("{begin}{rest}Use `--force` to ignore this message.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_what_is_lost() {
        for (managers, text) in [
            (Some(1), "Removing the last manager erases"),
            (Some(2), "leaves 1 managers out of 2"),
            (Some(3), "Demote it first"),
            (None, "Demote it first"),
        ] {
            let warning = warning(managers);
            assert!(warning.contains(text) && warning.ends_with("Use `--force` to ignore this message."), "{warning}");
        }
    }

    #[test]
    fn nothing_of_a_cluster_is_left() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["manager/log", "identity", "assignments", "tasks/x", "shims/x", "images"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["managers", "identity/keystore", "identity/keystore.key", "node.json"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        forget(folder.path(), folder.path()).unwrap();
        forget(folder.path(), folder.path()).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| ["images", "identity"].contains(&name.to_str().unwrap())), "{left:?}");
        assert_eq!(std::fs::read_dir(folder.path().join("identity")).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_forgotten_under_a_container_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let task = skep_model::TaskId::from_random([7; 16]);
        let kept = folder.path().join("tasks").join(task.as_str());
        // Where a shim keeps its lock, and where it did that when an earlier version started it.
        for state in [folder.path().join("shims").join(task.as_str()), kept.join("state")] {
            std::fs::create_dir_all(&kept).unwrap();
            std::fs::create_dir_all(&state).unwrap();
            let lock = std::fs::File::create(state.join("lock")).unwrap();
            lock.try_lock().unwrap();
            let refused = forget(folder.path(), folder.path()).unwrap_err().line();
            assert!(refused.contains(&format!("task {task} still runs on this node")), "{refused}");
            assert!(state.exists());
            drop(lock);
            forget(folder.path(), folder.path()).unwrap();
            assert!(!state.exists() && !kept.exists());
        }
    }
}
