//! Real daemons on loopback addresses of their own: `skepd` as it is built, with
//! nothing beside it that could run a container. Each is killed with its owner.

#![allow(dead_code, reason = "every test file uses its own part")]

pub mod flood;
mod network;
pub mod worker;

use skep_host::unix::local_channel;
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::local_client::LocalClient;
use skep_proto::v1::*;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long anything may take that a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The last byte of the next address on loopback.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A daemon with its folders.
pub struct Daemon {
    folder: TempDir,
    /// Where it listens, `address:port`.
    pub address: String,
    child: Child,
    log: Log,
}

/// What a daemon has said so far.
type Log = Arc<Mutex<Vec<String>>>;

impl Daemon {
    /// A new one, in no cluster.
    pub fn new() -> Self {
        let daemon = Self::without_netd();
        daemon.start_netd();
        daemon
    }

    /// A new one, in no cluster, whose network daemon is away.
    pub fn without_netd() -> Self {
        Self::made("")
    }

    /// A new one, in no cluster, with faults that its debug build knows.
    pub fn planted(faults: &str) -> Self {
        let daemon = Self::made(faults);
        daemon.start_netd();
        daemon
    }

    /// One whose data folder is there already.
    pub fn with_data(fill: impl FnOnce(&Path), flags: &[&str]) -> Self {
        let daemon = Self::started("", flags, fill);
        daemon.start_netd();
        daemon
    }

    fn made(faults: &str) -> Self {
        Self::started(faults, &[], |_| {})
    }

    fn started(faults: &str, flags: &[&str], fill: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("node").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The shim must lie beside the daemon; here none is ever started.
        std::fs::hard_link(env!("CARGO_BIN_EXE_skepd"), folder.path().join("skepd")).unwrap();
        std::fs::write(folder.path().join("skep-shim"), "").unwrap();
        let address = Self::free_address();
        let log = Log::default();
        fill(&folder.path().join("data"));
        let child = spawn(folder.path(), flags, faults, &log);
        Self { folder, address, child, log }
    }

    /// Its network daemon comes, and stays.
    pub fn start_netd(&self) {
        network::serve(&self.folder.path().join("run"));
    }

    /// Ends it as a power cut would, and starts it again.
    pub fn restart_after_kill(&mut self, flags: &[&str]) {
        self.kill();
        self.child = spawn(self.folder.path(), flags, "", &self.log);
    }

    /// Another address on loopback that is nobody's.
    pub fn free_address() -> String {
        let [.., high, low] = std::process::id().to_be_bytes();
        format!("127.{}.{}.{}:2377", high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as init systems do; it must end by itself.
    pub async fn terminate(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        wait_until("the daemon ends", async || self.child.try_wait().unwrap().is_some()).await;
    }

    /// Starts it after it ended.
    pub fn start(&mut self) {
        self.child = spawn(self.folder.path(), &[], "", &self.log);
    }

    /// Waits until it has ended by itself; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        wait_until("the daemon ends", async || self.child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap().code()
    }

    /// Whether a line of its log has these words; waits for a line that is on its way.
    pub fn said(&self, words: &str) -> bool {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            if self.log.lock().unwrap().iter().any(|line| line.contains(words)) {
                return true;
            }
            if std::time::Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// Whether no line of its log has these words so far.
    pub fn said_nothing_of(&self, words: &str) -> bool {
        !self.log.lock().unwrap().iter().any(|line| line.contains(words))
    }

    /// What a second daemon with the same folders says.
    pub fn second(&self) -> std::process::Output {
        let folder = self.folder.path();
        let mut command = Command::new(folder.join("skepd"));
        command.arg("--data-dir").arg(folder.join("data")).arg("--run-dir").arg(folder.join("run")).output().unwrap()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn channel(&self) -> Channel {
        local_channel(&self.folder.path().join("run/skep.sock"))
    }

    pub fn local(&self) -> LocalClient<Channel> {
        LocalClient::new(self.channel())
    }

    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel())
    }

    pub async fn info(&self) -> NodeInfo {
        self.local().info(InfoRequest {}).await.unwrap().into_inner()
    }

    pub async fn init(&self, request: InitRequest) -> Result<InitReply, Status> {
        let request = InitRequest { listen_addr: self.address.clone(), ..request };
        self.local().init(request).await.map(tonic::Response::into_inner)
    }

    pub async fn join(&self, remote: &str, token: &str) -> Result<JoinReply, Status> {
        let request = JoinRequest {
            remote_addrs: vec![remote.to_owned()],
            token: Some(Confidential::new(token.as_bytes())),
            listen_addr: self.address.clone(),
            ..JoinRequest::default()
        };
        self.local().join(request).await.map(tonic::Response::into_inner)
    }

    pub async fn leave(&self, force: bool) -> Result<(), Status> {
        self.local().leave_cluster(LeaveRequest { force }).await.map(drop)
    }

    /// The cluster's nodes, as this manager sees them now.
    pub async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let query = read_request::Query::List(ListQuery { kind: Kind::Node.into(), ..ListQuery::default() });
        let reply = self.control().read(ReadRequest { query: Some(query), stale: false }).await?.into_inner();
        let node = |object: Object| match object.object {
            Some(object::Object::Node(node)) => node,
            other => panic!("not a node: {other:?}"),
        };
        Ok(reply.objects.into_iter().map(node).collect())
    }

    /// Has this manager give a node a role.
    pub async fn set_role(&self, node: &str, role: Role) -> Result<(), Status> {
        let nodes = self.nodes().await?;
        let found = nodes.into_iter().find(|found| found.id == node).expect("the node is known");
        let spec = NodeSpec { desired_role: role.into(), ..found.spec.unwrap().value.unwrap() };
        let update = UpdateNode { reference: node.to_owned(), expect: None, spec: Some(spec) };
        self.mutate(mutate_request::Mutation::UpdateNode(update)).await
    }

    pub async fn mutate(&self, mutation: mutate_request::Mutation) -> Result<(), Status> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        self.control().mutate(MutateRequest { request_id: id.to_vec(), mutation: Some(mutation) }).await.map(drop)
    }

    /// Whether nothing of a cluster is on its disk.
    pub fn is_clean(&self) -> bool {
        let left = |name: &str| self.data().join(name).exists();
        !["node.json", "identity/keystore", "identity/keystore.key", "manager", "managers"].into_iter().any(left)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts a daemon and returns when it serves its socket, as it says itself.
fn spawn(folder: &Path, flags: &[&str], faults: &str, log: &Log) -> Child {
    let mut child = Command::new(folder.join("skepd"))
        .args(["--cgroup-parent", "/skep-node-test", "--hostname", "test"])
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--run-dir")
        .arg(folder.join("run"))
        .args(flags)
        .env("SKEP_TEST_PANIC", faults)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    // The log is read to its end, or the daemon would block; a failing test shows it.
    let log = log.clone();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.contains("skepd is here") {
                let _told = sender.send(());
            }
            println!("{line}");
            log.lock().unwrap().push(line);
        }
    });
    receiver.recv_timeout(WAIT_MAX).expect("the daemon serves its socket");
    child
}

/// Waits for something in another process, which gives no event here.
pub async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut again = tokio::time::interval(Duration::from_millis(50));
    let waiting = async {
        while !is_so().await {
            again.tick().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting).await.unwrap_or_else(|_| panic!("not within {WAIT_MAX:?}: {what}"));
}

/// The text of a secret in a reply.
pub fn text(secret: Option<Confidential>) -> String {
    secret.expect("it was given").text().unwrap().to_owned()
}

/// Demands a refusal with these words.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &str) {
    let status = result.expect_err("it is refused");
    assert!(status.code() == code && status.message().contains(words), "{status:?}");
    assert!(!status.message().contains('\n'), "{status:?}");
}
