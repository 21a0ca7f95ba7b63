//! Who loads the cluster during a trial, and says afterwards whether the rest of it went on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Background, Cluster, Figures, wait_for};

/// All nodes of the cluster.
const NODES: [&str; 5] = ["m1", "m2", "m3", "w1", "w2"];
/// Requests a second during a trial, of all clients together.
const RATE: &str = "200";
/// Until a new service on a network answers.
const DEPLOY: Duration = Duration::from_secs(3);
/// The longest that a check allows for it: ten times the figure.
const DEPLOY_MAX: Duration = Duration::from_secs(30);

/// Judges one trial after the other on one cluster.
pub struct Judge<'a> {
    cluster: &'a Cluster,
    figures: &'a mut Figures,
    n_trials: usize,
    events: PathBuf,
    _watch: Background,
}

impl<'a> Judge<'a> {
    /// Deploys what is asked during trials, and begins to watch the nodes.
    pub fn new(cluster: &'a Cluster, figures: &'a mut Figures) -> Self {
        cluster.host("outside");
        cluster.skep("m1", &["network", "create", "front"]).ok();
        // Nothing of it is where nodes are made to suffer: a request may fail only at the node on trial.
        let steady = ["--constraint", "node.hostname!=w2", "--constraint", "node.hostname!=m3"];
        let check = ["--health-cmd", "traffic ask 127.0.0.1:80", "--health-interval", "200ms", "--health-timeout", "5s"];
        let web = ["--replicas", "3", "--network", "front", "--publish", "8080:80"];
        cluster.serve("web", &[&web[..], &steady, &check].concat()).ok();
        cluster.serve("client", &["--network", "front", "--constraint", "node.hostname==m1"]).ok();
        let events = cluster.scratch().join("events");
        let watch = ["skep", "events", "--filter", "type=node", "--format", "{{json .}}"];
        let watch = cluster.background("m2", &watch, &events);
        Self { cluster, figures, n_trials: 0, events, _watch: watch }
    }

    /// Runs a trial under load and judges it. `suffers` is the node that may fail requests and leave `Ready`.
    ///
    /// # Panics
    /// When a request to another node was lost, another node left `Ready`, or a new service does not come up.
    pub fn trial<T>(&mut self, name: &str, suffers: Option<&str>, act: impl FnOnce(&mut Self) -> T) -> T {
        let began = Instant::now();
        let known = self.left_ready(None).len();
        let targets: Vec<String> =
            NODES.iter().filter(|node| Some(**node) != suffers).map(|node| format!("{node}:8080")).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let load = self.cluster.load("outside", &[&["--rate", RATE][..], &targets].concat());
        let result = act(self);
        self.deploys(name);
        load.finish().lost_nothing(name);
        let left = self.left_ready(suffers);
        assert!(left.len() <= known, "{name}: nodes left Ready:\n{}", left.join("\n"));
        self.all_ready(name);
        println!("{name}: {:.1} s", began.elapsed().as_secs_f64());
        result
    }

    /// Events of nodes that left `Ready`, but for one node.
    fn left_ready(&self, but: Option<&str>) -> Vec<String> {
        let text = std::fs::read_to_string(&self.events).expect("a log");
        let names = |line: &&str| but.is_some_and(|node| line.contains(&format!("\"name\":\"{node}\"")));
        text.lines()
            .filter(|line| line.contains("\"state.old\":\"ready\""))
            .filter(|line| !names(line))
            .map(str::to_owned)
            .collect()
    }

    /// Every node is ready again at the end of a trial, also the one that suffered.
    fn all_ready(&self, name: &str) {
        wait_for(&format!("every node to be ready after {name}"), Duration::from_secs(60), || {
            let said = self.cluster.skep("m1", &["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]);
            (said.out.lines().filter(|line| line.ends_with(" Ready")).count() == NODES.len()).then_some(())
        });
    }

    /// A new service with a network, asked by its name from another task.
    fn deploys(&mut self, name: &str) {
        self.n_trials += 1;
        let service = format!("probe{}", self.n_trials);
        let start = Instant::now();
        let more = ["--detach", "--network", "front", "--constraint", "node.hostname!=w2", "--constraint", "node.hostname!=m3"];
        self.cluster.serve(&service, &more).ok();
        let client = self.cluster.place("client", "m1");
        wait_for(&format!("a new service to answer after {name}"), DEPLOY_MAX, || {
            let said = self.cluster.on(&client, &["traffic", "ask", "--timeout", "1", &format!("{service}:80")]);
            (said.code == 0).then_some(())
        });
        self.figures.add("a new service answers", start.elapsed(), DEPLOY);
        self.cluster.remove_services(&[&service]);
    }
}
