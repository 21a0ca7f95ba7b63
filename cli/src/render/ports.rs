//! Published ports, as docker's lists have them.

use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::service::Service;
use skep_model::task::Task;

/// Ports that follow one another: the first and the last of each side.
struct Run {
    transport: Transport,
    published: (u16, u16),
    target: (u16, u16),
}

impl Run {
    /// The run with this port at its end, if it goes on there.
    fn extended(&self, port: &PublishedPort) -> Option<Self> {
        let is_next = |last: u16, next: u16| last.checked_add(1) == Some(next);
        if port.transport != self.transport || !is_next(self.published.1, port.published_port) {
            return None;
        }
        let is_single = self.published.0 == self.published.1;
        let target = match port.target_port {
            next if is_next(self.target.1, next) && (is_single || self.target.0 != self.target.1) => (self.target.0, next),
            same if same == self.target.1 && self.target.0 == self.target.1 => self.target,
            _ => return None,
        };
        Some(Self { transport: self.transport, published: (self.published.0, port.published_port), target })
    }

    fn text(&self) -> String {
        let side = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        let target = format!("{}/{}", side(self.target), self.transport.name());
        match self.published {
            // The node's kernel chooses it.
            (0, _) => target,
            published => format!("*:{}->{target}", side(published)),
        }
    }
}

/// The ports of one mode, with those that follow one another as a range.
fn text(ports: &[PublishedPort], mode: PublishMode) -> String {
    let mut ports: Vec<&PublishedPort> = ports.iter().filter(|port| port.publish_mode == mode).collect();
    ports.sort_by_key(|port| (port.transport, port.published_port, port.target_port));
    let mut runs = Vec::<Run>::new();
    for port in ports {
        match runs.last_mut().and_then(|run| run.extended(port).map(|longer| (run, longer))) {
            Some((run, longer)) => *run = longer,
            None => runs.push(Run {
                transport: port.transport,
                published: (port.published_port, port.published_port),
                target: (port.target_port, port.target_port),
            }),
        }
    }
    runs.iter().map(Run::text).collect::<Vec<_>>().join(", ")
}

/// The ports at which a service answers on every node, as they were settled.
pub fn of_service(service: &Service) -> String {
    text(&service.plan.endpoint.ports, PublishMode::Ingress)
}

/// The ports of a task's own node that lead to it while it runs, as its node settled
/// them.
pub fn of_task(task: &Task) -> String {
    let is_running = task.status.state == skep_model::TaskState::Running;
    if is_running { text(&task.status.ports, PublishMode::Host) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::publish;
    use crate::render::sample;

    #[test]
    fn ports_that_follow_one_another_are_a_range() {
        let table: [(&[&str], &str); 8] = [
            (&[], ""),
            (&["8080:80"], "*:8080->80/tcp"),
            (&["8000-8002:80-82"], "*:8000-8002->80-82/tcp"),
            (&["8000-8002:80"], "*:8000-8002->80/tcp"),
            (&["8080:80", "8081:80", "8082:81"], "*:8080-8081->80/tcp, *:8082->81/tcp"),
            (&["53:53/udp", "53:53", "54:54"], "*:53-54->53-54/tcp, *:53->53/udp"),
            (&["90:90", "80:80"], "*:80->80/tcp, *:90->90/tcp"),
            (&["published=80,target=80,mode=host"], ""),
        ];
        for (texts, expected) in table {
            let ports: Vec<PublishedPort> = texts.iter().flat_map(|text| publish::parse(text).expect(text)).collect();
            assert_eq!(text(&ports, PublishMode::Ingress), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_running_task_has_the_host_ports_that_its_node_settled() {
        let mut task = sample::published_task();
        assert_eq!(of_service(&sample::published_service()), "*:8080->80/tcp");
        assert_eq!(of_task(&task), "*:32768->70/tcp, *:9090->9090/udp");
        task.status.value.state = skep_model::TaskState::Failed;
        assert_eq!(of_task(&task), "");
    }
}
