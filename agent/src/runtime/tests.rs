//! The runtime without a shim or a network daemon: what a task has before anything of
//! it begins, and which images a restarted daemon keeps.

use super::*;
use crate::image::ImageError;
use crate::image::tests::fixture::{Built, Layer, gzip, platform, reader};
use crate::network::Place;
use skep_model::service::TaskSpec;
use skep_model::task::TaskPlan;
use skep_model::{Meta, Section, ServiceId, TaskState, Time};
use std::path::Path;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// For anything that a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(10);

fn task(image: &str) -> Arc<Task> {
    let mut spec = TaskSpec { network: NetworkMode::None, ..TaskSpec::default() };
    spec.container_spec.image = image.into();
    Arc::new(Task {
        id: TaskId::from_random([1; 16]),
        meta: Meta::default(),
        service_id: ServiceId::from_random([9; 16]),
        service_name: "web".into(),
        service_labels: BTreeMap::new(),
        slot: 1,
        spec: Arc::new(spec),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
        status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
    })
}

/// What a daemon makes of its data folder when it starts.
async fn started(data: &Path) -> (Arc<Runtime>, UnboundedReceiver<Event>) {
    let settings = Settings {
        node: NodeId::from_random([2; 16]),
        hostname: "n1".into(),
        shim: "/nonexistent".into(),
        cgroup_parent: format!("/skep-agent-test/{}", std::process::id()),
        registries: RegistryOptions::default(),
    };
    let (inbox, events) = Inbox::new();
    let place = Place { socket: data.join("netd.sock"), node: settings.node, address: [127, 0, 0, 1].into() };
    let network = Network::new(place, data, "boot".into(), inbox.clone());
    let images = ImageStore::open(data.join("images")).await.expect("a store");
    let folders = Folders::open(data, data).expect("folders");
    (Runtime::new(settings, folders, "boot".into(), images, Arc::default(), network, inbox), events)
}

/// The id of a thread's kernel task shows when it waits for a lock.
fn await_sleep(thread: nix::unistd::Pid) {
    let begun = Instant::now();
    let stat = format!("/proc/self/task/{thread}/stat");
    let sleeps = || std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "));
    while !sleeps() {
        assert!(begun.elapsed() < WAIT_MAX, "the thread waits for the lock that the test holds");
        std::thread::yield_now();
    }
}

/// Whatever comes of a preparation, and however soon, finds the task's place.
#[test]
fn a_task_has_its_place_before_anything_of_it_begins() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let data = tempfile::tempdir().expect("a folder");
    let (runtime, mut events) = tokio.block_on(started(data.path()));
    let task = task("no image:");
    let id = task.id;
    let n_before = tokio.metrics().num_alive_tasks();
    let held = runtime.lock();
    let (tell, told) = std::sync::mpsc::channel();
    let preparing = std::thread::spawn({
        let (runtime, handle) = (runtime.clone(), tokio.handle().clone());
        move || {
            let _inside = handle.enter();
            tell.send(nix::unistd::gettid()).expect("the test listens");
            runtime.prepare(task, 0);
        }
    });
    await_sleep(told.recv_timeout(WAIT_MAX).expect("it began"));
    assert_eq!(tokio.metrics().num_alive_tasks(), n_before, "nothing begins without a place");
    assert!(events.try_recv().is_err());
    drop(held);
    preparing.join().expect("it prepares");
    let event = tokio.block_on(async { tokio::time::timeout(WAIT_MAX, events.recv()).await });
    let event = event.expect("in time").expect("the runtime lives");
    assert!(matches!(event, Event::PrepareFailed { task, .. } if task == id), "{event:?}");
    assert!(runtime.lock().contains_key(&id));
}

/// A container is made of layers, not of a name: after a restart, too, its image stays
/// until it is released, whatever its name has come to mean.
#[tokio::test]
async fn after_a_restart_the_image_of_a_container_stays_though_its_name_moved() {
    let data = tempfile::tempdir().expect("a folder");
    let (before, _) = started(data.path()).await;
    let task = task("web:1");
    let load = async |text: &str| {
        let built = Built::new(&[Layer::default().file("own", text).end()], gzip);
        before.images().load(reader(built.layout("web:1")), &platform()).await.expect("a sound archive");
        built.id()
    };
    let old = load("old").await;
    let status = TaskStatus::new(TaskState::Running, Time::ZERO);
    before.save(&task, &status);
    before.flush(WAIT_MAX).await;
    before.folders.make(task.id).expect("folders").take_lease(&old).expect("a lease");
    let new = load("new").await;
    assert_ne!(old, new);
    drop(before);

    let (after, _events) = started(data.path()).await;
    let found = after.recover().expect("folders");
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [task.id]);
    assert_eq!(after.images_in_use(), BTreeSet::from([old.clone()]));
    let removed = after.images().remove(old.short(), true, &after.images_in_use()).await;
    assert!(matches!(removed, Err(ImageError::InUse { .. })), "{removed:?}");
    after.images().remove("web:1", false, &after.images_in_use()).await.expect("nobody runs what the name means now");
    after.remove_now(task.id).await;
    assert_eq!(after.images_in_use(), BTreeSet::new());
    after.images().remove(old.short(), true, &after.images_in_use()).await.expect("it is free now");
}
