//! Watches of a manager as clients open them, above all by time: what `skep events --since --until` shows.

mod common;

use common::{Site, ask};
use futures_util::StreamExt as _;
use skep_host::clock;
use skep_manager::Manager;
use skep_model::{Kind, Object, Time};
use skep_proto::request::{Watch, WatchFrom, encode_watch};
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::{Annotations, ChangeAction, CreateConfig, Remove, UpdateConfigValue, WatchEvent};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Request, Status};

/// Until something that is due has come.
const SOON: Duration = Duration::from_secs(20);

fn create(name: &str) -> Mutation {
    let annotations = Annotations { name: name.into(), ..Annotations::default() };
    Mutation::CreateConfig(CreateConfig { annotations: Some(annotations), value: b"1".to_vec() })
}

fn update(name: &str) -> Mutation {
    Mutation::UpdateConfig(UpdateConfigValue { reference: name.into(), value: Some(b"2".to_vec()), labels: None })
}

fn remove(name: &str) -> Mutation {
    Mutation::RemoveConfig(Remove { reference: name.into() })
}

type Events = Pin<Box<dyn futures_util::Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// Opens a watch of configs.
async fn watch(manager: &Manager, from: WatchFrom, until: Option<Time>, filters: &[(&str, &str)]) -> Events {
    let filters = filters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let watch = Watch { from, until, kinds: vec![Kind::Config], filters };
    manager.control().watch(Request::new(encode_watch(&watch))).await.expect("a watch").into_inner()
}

/// The next event; `None` at the end of the stream.
async fn next(events: &mut Events) -> Option<WatchEvent> {
    timeout(SOON, events.next()).await.expect("an event, or the end").map(|event| event.expect("the watch goes on"))
}

/// `create a`, for each change.
fn told(event: WatchEvent) -> Vec<String> {
    let line = |change: skep_proto::v1::Change| {
        let action = match change.action() {
            ChangeAction::Create => "create",
            ChangeAction::Update => "update",
            ChangeAction::Remove => "remove",
            ChangeAction::Unspecified => "?",
        };
        let object = Object::try_from(change.object.expect("what it was done to")).expect("an object");
        format!("{action} {}", object.name())
    };
    event.changes.into_iter().map(line).collect()
}

/// The next changes, each of a later version than the one before.
async fn take(events: &mut Events, n_changes: usize) -> Vec<String> {
    let (mut found, mut version) = (Vec::new(), 0);
    while found.len() < n_changes {
        let event = next(events).await.expect("it has no end");
        assert!(event.changes.is_empty() || event.version > version, "{event:?} after {version}");
        version = event.version;
        found.extend(told(event));
    }
    found
}

/// Everything between two times, and whether the manager knows that it is; the times are in order.
async fn between(manager: &Manager, since: Time, until: Time, filters: &[(&str, &str)]) -> (Vec<String>, bool) {
    let mut events = watch(manager, WatchFrom::Since(since), Some(until), filters).await;
    let first = next(&mut events).await.expect("it begins");
    assert_eq!((first.version, first.changes.len()), (0, 0), "first it is said whether anything is missing");
    let (mut found, mut last) = (Vec::new(), Time::ZERO);
    while let Some(event) = next(&mut events).await {
        let time = Time(event.time);
        assert!(event.changes.is_empty() || (last <= time && since <= time && time <= until), "{event:?}");
        (last, found) = (last.max(time), [found, told(event)].concat());
    }
    (found, !first.incomplete)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_between_two_times_tells_what_happened_then_removals_included_and_ends() {
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    ask(&manager, create("before")).await;
    let begin = clock::now();
    ask(&manager, create("a")).await;
    ask(&manager, create("b")).await;
    let middle = clock::now();
    ask(&manager, update("a")).await;
    ask(&manager, remove("b")).await;
    let end = clock::now();
    ask(&manager, create("after")).await;
    let all = ["create a", "create b", "update a", "remove b"];
    for (since, until, filters, expected) in [
        (begin, end, &[][..], &all[..]),
        (begin, middle, &[], &all[..2]),
        (middle, end, &[], &all[2..]),
        (begin, end, &[("event", "remove")], &all[3..]),
        (begin, end, &[("config", "a")], &["create a", "update a"]),
        (end, begin, &[], &[]),
    ] {
        let found = between(&manager, since, until, filters).await;
        assert_eq!(found, (expected.iter().map(ToString::to_string).collect(), true), "{since:?} {until:?} {filters:?}");
    }

    // Until a time that has not come yet: what happens meanwhile follows, and the time ends it.
    let until = clock::now() + Duration::from_millis(300);
    assert_eq!(between(&manager, end, until, &[]).await.0, ["create after"]);
    assert!(clock::now() >= until, "it ended early");

    // Without an end it goes on from the past to the present, and each version comes once.
    let mut events = watch(&manager, WatchFrom::Since(middle), None, &[]).await;
    assert_eq!(take(&mut events, 3).await, ["update a", "remove b", "create after"]);
    ask(&manager, create("now")).await;
    ask(&manager, remove("now")).await;
    assert_eq!(take(&mut events, 2).await, ["create now", "remove now"]);
    drop(events);
    manager.stop().await;
}

/// A ring that begins at a log's first entry lacks nothing, however far back somebody asks; a
/// restart reads the same log.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_forgotten_nothing_says_so_for_times_before_it_was_founded() {
    let before = clock::now() - Duration::from_secs(300);
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    ask(&manager, create("a")).await;
    ask(&manager, remove("a")).await;
    let all = (vec!["create a".to_owned(), "remove a".to_owned()], true);
    assert_eq!(between(&manager, before, clock::now(), &[]).await, all);
    manager.stop().await;
    let manager = Manager::start(site.start(None)).await.expect("a second start");
    assert_eq!(between(&manager, before, clock::now(), &[]).await, all, "after a restart");
    manager.stop().await;
}

/// More than wait for one watcher that falls behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_resumes_gets_all_that_it_missed_however_much_that_is() {
    const N_CHANGES: usize = 4_200;
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    ask(&manager, create("seen")).await;
    let seen = {
        let mut events = watch(&manager, WatchFrom::Now, None, &[]).await;
        next(&mut events).await.expect("where it begins").version
    };
    let asking = (0..N_CHANGES).map(|number| ask(&manager, create(&format!("missed{number}"))));
    futures_util::stream::iter(asking).buffer_unordered(256).map(drop).collect::<()>().await;
    let mut events = watch(&manager, WatchFrom::After(seen), None, &[]).await;
    // When this is answered the watch has begun, and nothing of it was read yet.
    ask(&manager, create("new")).await;
    let mut missed = take(&mut events, N_CHANGES + 1).await;
    assert_eq!(missed.pop().as_deref(), Some("create new"), "it goes on, in order");
    assert_eq!(missed.into_iter().collect::<BTreeSet<_>>().len(), N_CHANGES, "each once");
    drop(events);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_nothing_to_tell_says_how_far_it_is_and_can_be_resumed_there() {
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    let mut events = watch(&manager, WatchFrom::Now, None, &[("config", "a")]).await;
    let begin = next(&mut events).await.expect("where it begins");
    ask(&manager, create("b")).await;
    let progress = next(&mut events).await.expect("it goes on");
    assert!(progress.changes.is_empty() && progress.version > begin.version, "{progress:?} after {begin:?}");
    assert!(progress.time >= begin.time && progress.store_time > 0, "{progress:?}");
    ask(&manager, create("a")).await;
    let created = next(&mut events).await.expect("it goes on");
    assert!(created.version > progress.version && created.store_time >= progress.store_time, "{created:?}");
    assert_eq!(told(created), ["create a"]);
    let mut events = watch(&manager, WatchFrom::After(progress.version), None, &[]).await;
    assert_eq!(take(&mut events, 1).await, ["create a"]);
    drop(events);
    manager.stop().await;
}
