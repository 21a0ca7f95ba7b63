//! What a manager answers beside the outcome of a change.

mod common;

use common::{Site, ask};
use skep_manager::Manager;
use skep_model::service::{Annotations, RestartPolicy, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::read_request::Query;
use skep_proto::v1::{
    Annotations as WireAnnotations, CreateConfig, CreateService, Kind, ListQuery, ReadReply, ReadRequest, UpdateService,
};
use std::time::Duration;
use tonic::{Request, Status};

fn service(window: Duration) -> ServiceSpec {
    let mut task_template = TaskSpec::default();
    task_template.container_spec.image = "busybox".into();
    task_template.restart_policy =
        RestartPolicy { delay: Duration::from_secs(3), max_attempts: 2, window, ..RestartPolicy::default() };
    ServiceSpec {
        annotations: Annotations { name: "web".into(), ..Annotations::default() },
        task_template,
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    }
}

/// As in Swarm it is accepted; unlike there, somebody says that the limit is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_limit_that_its_window_never_holds_is_warned_of_in_the_answer() {
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    let (short, long) = (service(Duration::from_secs(2)), service(Duration::from_secs(6)));
    let create = Mutation::CreateService(CreateService { spec: Some((&short).into()) });
    let update = |spec: &ServiceSpec| {
        Mutation::UpdateService(UpdateService { reference: "web".into(), expect: None, spec: Some(spec.into()) })
    };
    for (request, is_warned) in [(create, true), (update(&long), false), (update(&short), true)] {
        let text = format!("{request:?}");
        let reply = ask(&manager, request).await;
        assert!(reply.outcome.is_some(), "{text}");
        assert_eq!(reply.warnings.len(), usize::from(is_warned), "{text}: {:?}", reply.warnings);
        let words = "the restart window of 2s never holds 2 restarts with a restart delay of 3s";
        assert!(reply.warnings.iter().all(|warning| warning.starts_with(words)), "{:?}", reply.warnings);
    }
    manager.stop().await;
}

async fn list(manager: &Manager, page_size: u32, page_token: &str, stale: bool) -> Result<ReadReply, Status> {
    let list = ListQuery { kind: Kind::Config.into(), page_size, page_token: page_token.into(), ..ListQuery::default() };
    let request = ReadRequest { query: Some(Query::List(list)), stale };
    manager.control().read(Request::new(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_page_by_page_and_a_token_of_elsewhere_is_refused() {
    let (site, founding) = Site::new();
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
    for name in ["a", "b", "c", "d", "e"] {
        let annotations = WireAnnotations { name: name.into(), ..WireAnnotations::default() };
        ask(&manager, Mutation::CreateConfig(CreateConfig { annotations: Some(annotations), value: b"1".to_vec() })).await;
    }
    let (mut token, mut found, mut lengths) = (String::new(), Vec::new(), Vec::new());
    loop {
        let page = list(&manager, 2, &token, false).await.expect("a page");
        lengths.push(page.objects.len());
        found.extend(page.objects.into_iter().map(|object| skep_model::Object::try_from(object).expect("valid").name()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    found.sort();
    assert_eq!((found.join(""), lengths), ("abcde".to_owned(), vec![2, 2, 1]));
    let id = "0".repeat(25);
    for (token, stale, words) in [
        ("next".to_owned(), false, "list.page_token: \"next\" is no token of a page: give the next_page_token"),
        (format!("99999.{id}"), false, "invalid page_token \"99999.0000000000000000000000000\": this cluster is at version"),
        (format!("99999.{id}"), true, "the page before was read from version 99999; ask again"),
    ] {
        let refused = list(&manager, 2, &token, stale).await.expect_err("it is refused");
        assert!(refused.message().contains(words), "{refused:?}");
    }
    manager.stop().await;
}
