//! Data folders as earlier builds left them: every format that was ever written starts, and what was stored is there.
//!
//! `data/README.md` says how a folder was made, and when: its certificates are valid around that time, which the daemon's wall
//! clock is set back to. A new format leaves a folder of its own here; none is ever removed or changed.

mod common;

use common::{Daemon, wait_until};
use skep_proto::v1::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::net::UdpSocket;

/// The folder, and its wall time in seconds since 1970.
const FORMAT_1: (&str, u64) = ("format-1", 1_796_081_074);

/// Copies a folder; nobody else may read the copy, as of what a daemon writes.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// Waits until no other test on this machine has the address that a data folder names.
async fn alone(address: &str) -> UdpSocket {
    let mut held = None;
    wait_until("the address of the data folder is free", async || {
        held = UdpSocket::bind(address).await.ok();
        held.is_some()
    })
    .await;
    held.expect("it is free")
}

/// What set the wall clock of a daemon back to that second.
fn back_to(second: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("--clock-offset-ms={}", second as i64 * 1000 - now.as_millis() as i64)
}

async fn get(daemon: &Daemon, kind: Kind, reference: &str) -> ReadReply {
    let query = read_request::Query::Get(GetQuery { kind: kind.into(), reference: reference.into() });
    let reply = daemon.control().read(ReadRequest { query: Some(query), stale: false }).await;
    reply.unwrap_or_else(|status| panic!("{kind:?} {reference}: {status:?}")).into_inner()
}

/// The object as the model has it: everything in it is understood.
fn object(reply: ReadReply) -> skep_model::Object {
    reply.objects.into_iter().next().expect("an object").try_into().expect("it is understood")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_the_first_format_starts_and_everything_in_it_is_there() {
    let (name, second) = FORMAT_1;
    let _alone = alone("127.77.1.1:2377").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let daemon = Daemon::with_data(|data| copy(&folder, data), &[&back_to(second)]);
    wait_until("the manager leads", async || daemon.info().await.is_leader && daemon.nodes().await.is_ok()).await;

    let info = daemon.info().await;
    assert_eq!((info.state(), info.managers, info.nodes, info.error.as_str()), (LocalState::Active, 1, 1, ""));
    let skep_model::Object::Service(service) = object(get(&daemon, Kind::Service, "web").await) else { panic!("a service") };
    let container = &service.spec.spec.task_template.container_spec;
    assert_eq!((container.image.as_str(), &container.env[..]), ("registry.invalid/web:2", &["MODE=new".to_owned()][..]));
    let previous = service.spec.previous.as_ref().expect("it was updated");
    assert_eq!(previous.task_template.container_spec.image, "registry.invalid/web:1");
    assert_eq!((container.secrets[0].name.as_str(), container.configs[0].name.as_str()), ("password", "settings"));
    assert_eq!(service.spec.spec.annotations.labels["tier"], "front");

    let config = get(&daemon, Kind::Config, "settings").await;
    let values: Vec<&[u8]> = config.config_values.values().map(Vec::as_slice).collect();
    assert_eq!(values, [b"first\n", b"other\n"], "both versions open under the keys of the folder");
    let skep_model::Object::Secret(secret) = object(get(&daemon, Kind::Secret, "password").await) else { panic!("a secret") };
    assert_eq!(secret.spec.versions.len(), 2);
    let skep_model::Object::Network(network) = object(get(&daemon, Kind::Network, "backend").await) else { panic!("a network") };
    let request = &service.spec.spec.task_template.networks[0];
    assert_eq!((request.target.as_str(), network.plan.pools.is_empty()), (network.id.as_str(), false));

    let tasks =
        read_request::Query::TasksOf(TasksOfQuery { of: Some(tasks_of_query::Of::Service("web".into())), ..Default::default() });
    let tasks = daemon.control().read(ReadRequest { query: Some(tasks), stale: false }).await.unwrap().into_inner().objects;
    assert!(!tasks.is_empty());
    tasks.into_iter().for_each(|task| drop(skep_model::Object::try_from(task).expect("it is understood")));

    // And it goes on: the folder takes changes.
    let annotations = Some(Annotations { name: "new".into(), ..Annotations::default() });
    let create = CreateConfig { annotations, value: b"value".to_vec() };
    daemon.mutate(mutate_request::Mutation::CreateConfig(create)).await.unwrap();
}
