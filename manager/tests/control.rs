//! What a manager answers beside the outcome of a change.

mod common;

use common::{Site, ask};
use skep_manager::Manager;
use skep_model::service::{Annotations, RestartPolicy, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::{CreateService, UpdateService};
use std::time::Duration;

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
