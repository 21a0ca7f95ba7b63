//! A process that holds the name sockets of all tasks while `skep-netd` restarts.
//!
//! A question that comes meanwhile waits in its socket, and is answered by the next
//! netd, which gets the sockets from here: a resolver that hears nothing would ask again
//! after five seconds. The keeper reads nothing from them and decides nothing.
//!
//! It speaks with one netd at a time, the newest, over a unix socket of whole messages:
//! `keep TASK PORT` with both sockets, `drop TASK`, and in answer to a connection
//! everything that it holds, then `end`. It ends by itself when no netd comes back, or
//! when the run folder is gone: what it holds keeps namespaces alive.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use skep_model::TaskId;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The socket's name in the run folder.
const SOCKET: &str = "netd-names.sock";
/// How long sockets are kept for a netd that does not come back.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether the run folder is still there, in milliseconds.
const LOOK_MS: u16 = 1000;
/// Until a new keeper listens.
const START_MAX: Duration = Duration::from_secs(2);
/// Until a message is taken or given.
const MESSAGE_MAX: TimeVal = TimeVal::new(2, 0);
/// A message, in bytes: a word, a task's id and a port.
const TEXT_MAX: usize = 128;

/// The sockets of one task.
#[derive(Debug)]
pub struct Kept {
    /// The port that both are bound to.
    pub port: u16,
    /// For datagrams.
    pub udp: OwnedFd,
    /// For connections.
    pub tcp: OwnedFd,
}

impl Kept {
    /// Whether both sockets are in a namespace: one made anew has the same name.
    pub(super) fn is_in(&self, namespace: BorrowedFd<'_>) -> bool {
        let identity = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        let of = |socket: &OwnedFd| -> nix::Result<_> {
            /// `SIOCGSKNS`: a descriptor of a socket's namespace.
            const GET_NAMESPACE: libc::c_ulong = 0x894c;
            // SAFETY: the call takes nothing and gives a new descriptor or an error.
            let raw = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), GET_NAMESPACE as _) })?;
            // SAFETY: the descriptor is new and nobody else's.
            identity(unsafe { OwnedFd::from_raw_fd(raw) }.as_fd())
        };
        identity(namespace).is_ok_and(|wanted| [&self.udp, &self.tcp].into_iter().all(|socket| of(socket) == Ok(wanted)))
    }
}

/// The way to the keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
}

impl Keeper {
    /// Finds the keeper of a run folder, or starts one; also what it held.
    ///
    /// # Errors
    /// If none can be started, or it does not answer.
    pub fn find(run_dir: &Path) -> io::Result<(Self, BTreeMap<TaskId, Kept>)> {
        let path = run_dir.join(SOCKET);
        let socket = match dial(&path) {
            Ok(socket) => socket,
            Err(_) => {
                start(run_dir)?;
                let begin = Instant::now();
                loop {
                    match dial(&path) {
                        Ok(socket) => break socket,
                        Err(error) if begin.elapsed() > START_MAX => return Err(error),
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            }
        };
        let keeper = Self { socket };
        let mut held = BTreeMap::new();
        loop {
            let (text, descriptors) = receive(keeper.socket.as_raw_fd())?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if text == "end" {
                return Ok((keeper, held));
            }
            held.extend(parse(&text, descriptors));
        }
    }

    /// Gives it the sockets of a task.
    ///
    /// # Errors
    /// If it is gone.
    pub fn keep(&self, task: TaskId, port: u16, udp: BorrowedFd<'_>, tcp: BorrowedFd<'_>) -> io::Result<()> {
        send(self.socket.as_raw_fd(), &format!("keep {task} {port}"), &[udp.as_raw_fd(), tcp.as_raw_fd()])
    }

    /// Has it close the sockets of a task. They are closed, or it is gone, when this
    /// returns: the task's namespace can end.
    pub fn forget(&self, task: TaskId) {
        if send(self.socket.as_raw_fd(), &format!("drop {task}"), &[]).is_ok() {
            // Whatever it is: it has come further than the message.
            let _ = receive(self.socket.as_raw_fd());
        }
    }
}

/// Holds sockets for the netd of a run folder until none needs that any more.
///
/// # Errors
/// If the socket cannot be listened on.
pub fn run(run_dir: &Path) -> io::Result<()> {
    let path = run_dir.join(SOCKET);
    let listener = made()?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&listener, Backlog::new(4)?)?;
    let mut held = BTreeMap::<TaskId, Kept>::new();
    let (mut client, mut alone_since) = (None::<OwnedFd>, Instant::now());
    loop {
        let mut sources = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        sources.extend(client.as_ref().map(|client| PollFd::new(client.as_fd(), PollFlags::POLLIN)));
        poll(&mut sources, PollTimeout::from(LOOK_MS))?;
        let ready: Vec<bool> = sources.iter().map(|source| source.any().unwrap_or(false)).collect();
        drop(sources);
        if client.is_some() && ready[1] && !serve(client.as_ref(), &mut held) {
            (client, alone_since) = (None, Instant::now());
        }
        if ready[0] {
            client = welcome(&listener, &held).ok();
        }
        let is_needed = client.is_some() || alone_since.elapsed() < ALONE_MAX;
        if !is_needed || !path.exists() {
            return Ok(());
        }
    }
}

/// Takes a new netd, and gives it all that is held.
fn welcome(listener: &OwnedFd, held: &BTreeMap<TaskId, Kept>) -> io::Result<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the descriptor is new and nobody else's.
    let client = unsafe { OwnedFd::from_raw_fd(raw) };
    limit(&client)?;
    for (task, Kept { port, udp, tcp }) in held {
        send(raw, &format!("keep {task} {port}"), &[udp.as_raw_fd(), tcp.as_raw_fd()])?;
    }
    send(raw, "end", &[])?;
    Ok(client)
}

/// Carries out one message; false = the netd has gone.
fn serve(client: Option<&OwnedFd>, held: &mut BTreeMap<TaskId, Kept>) -> bool {
    let Some(client) = client else { return false };
    let Ok(Some((text, descriptors))) = receive(client.as_raw_fd()) else { return false };
    match text.strip_prefix("drop ") {
        Some(task) => {
            if let Ok(task) = task.parse() {
                held.remove(&task);
            }
            send(client.as_raw_fd(), "dropped", &[]).is_ok()
        }
        None => {
            held.extend(parse(&text, descriptors));
            true
        }
    }
}

fn parse(text: &str, descriptors: Vec<OwnedFd>) -> Option<(TaskId, Kept)> {
    let (task, port) = text.strip_prefix("keep ")?.split_once(' ')?;
    let [udp, tcp] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
    Some((task.parse().ok()?, Kept { port: port.parse().ok()?, udp, tcp }))
}

/// Starts a keeper that outlives us.
fn start(run_dir: &Path) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--run-dir").arg(run_dir).arg("keep-names");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid is a plain system call.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
    let mut child = command.spawn()?;
    // It is reaped by whoever is there when it ends.
    std::thread::Builder::new().name("keeper".to_owned()).spawn(move || drop(child.wait()))?;
    Ok(())
}

fn made() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let made = made()?;
    limit(&made)?;
    connect(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(made)
}

fn limit(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimeout, &MESSAGE_MAX)?;
    setsockopt(socket, sockopt::SendTimeout, &MESSAGE_MAX)?;
    Ok(())
}

fn send(socket: RawFd, text: &str, descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket, &[IoSlice::new(text.as_bytes())], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The next message; none at the end.
fn receive(socket: RawFd) -> io::Result<Option<(String, Vec<OwnedFd>)>> {
    let mut bytes = [0; TEXT_MAX];
    let mut space = cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = match recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
        Err(Errno::ECONNRESET) => return Ok(None),
        received => received?,
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the descriptors are new and nobody else's.
            descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    let length = received.bytes;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((String::from_utf8_lossy(&bytes[..length]).into_owned(), descriptors)))
}
