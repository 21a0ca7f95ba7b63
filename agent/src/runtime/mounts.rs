//! What lies at the other end of a task's bind mounts, looked at before the task
//! starts.
//!
//! A source may be on a file system whose server is gone; whoever looks at it then
//! hangs, and cannot be called back. So each look is a thread of its own with a
//! deadline, the number of those that hang is limited, and a source that hangs is
//! not looked at again before it answers. Nothing else of the node waits for one.

use skep_model::container::{Mount, MountKind};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a source may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Sources that are looked at at once.
const LOOKS_MAX: usize = 64;

/// One look at a source.
type Answer = Option<Result<(), String>>;
/// How a source is looked at; a test puts another in its place.
type Look = fn(&Source) -> io::Result<()>;

/// A folder or file of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    path: PathBuf,
    is_made: bool,
}

/// The looks that are under way.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    look: Look,
    answer_max: Duration,
    under_way: Arc<Mutex<BTreeMap<Source, watch::Receiver<Answer>>>>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { look, answer_max: ANSWER_MAX, under_way: Arc::default() }
    }
}

impl Sources {
    /// Waits until the source of every bind mount has answered; makes those that are to
    /// be made.
    ///
    /// # Errors
    /// A sentence that names the source which is missing or does not answer.
    pub async fn check(&self, mounts: &[Mount]) -> Result<(), String> {
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Bind) {
            let source = Source { path: mount.source.clone().into(), is_made: mount.create_source };
            let mut answer = self.ask(&source)?;
            let waited = tokio::time::timeout(self.answer_max, answer.wait_for(Option::is_some)).await;
            match waited.map(|answer| answer.map(|answer| answer.clone())) {
                Ok(Ok(Some(result))) => result?,
                Ok(Ok(None) | Err(_)) => return Err(format!("{}: the look at it was cut short", source.named())),
                Err(_) => {
                    let limit = self.answer_max.as_secs_f32();
                    return Err(format!("{} does not answer within {limit} s; is its file system there?", source.named()));
                }
            }
        }
        Ok(())
    }

    /// Begins a look, or joins the one that is under way.
    fn ask(&self, source: &Source) -> Result<watch::Receiver<Answer>, String> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = under_way.get(source) {
            return Ok(answer.clone());
        }
        if under_way.len() >= LOOKS_MAX {
            return Err(format!("{}: {LOOKS_MAX} bind mount sources of this node do not answer", source.named()));
        }
        let (sender, answer) = watch::channel(None);
        let (look, looked, all) = (self.look, source.clone(), self.under_way.clone());
        let looking = std::thread::Builder::new().name("bind source".into()).spawn(move || {
            let result = look(&looked).map_err(|error| looked.explain(&error));
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&looked);
            sender.send_replace(Some(result));
        });
        looking.map_err(|error| format!("{} cannot be looked at: {error}", source.named()))?;
        under_way.insert(source.clone(), answer.clone());
        Ok(answer)
    }
}

impl Source {
    fn named(&self) -> String {
        format!("invalid mount config for type \"bind\": bind source path {}", self.path.display())
    }

    fn explain(&self, error: &io::Error) -> String {
        let path = self.path.display();
        match error.kind() {
            _ if self.is_made => format!("could not make the bind mount source {path}: {error}"),
            io::ErrorKind::NotFound => {
                format!("invalid mount config for type \"bind\": bind source path does not exist: {path}")
            }
            _ => format!("{} cannot be looked at: {error}", self.named()),
        }
    }
}

fn look(source: &Source) -> io::Result<()> {
    if source.is_made {
        make_source(&source.path)?;
    }
    std::fs::metadata(&source.path).map(drop)
}

/// Makes a folder and those above it that are missing, for every user to enter as Docker makes them, whatever the mask of
/// this process.
fn make_source(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_source(above)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;

    fn bind(source: &str, create_source: bool) -> Mount {
        Mount {
            kind: MountKind::Bind,
            source: source.into(),
            target: "/in".into(),
            read_only: false,
            tmpfs_size: 0,
            tmpfs_mode: 0,
            propagation: String::new(),
            create_source,
        }
    }

    async fn check(sources: &Sources, mounts: &[Mount]) -> Result<(), String> {
        sources.check(mounts).await
    }

    #[tokio::test]
    async fn a_source_is_there_or_made_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let sources = Sources::default();
        assert_eq!(check(&sources, &[bind(&at(""), false), bind(&at("a/b"), true)]).await, Ok(()));
        assert!(folder.path().join("a/b").is_dir());
        let missing = check(&sources, &[bind(&at("none"), false)]).await.unwrap_err();
        assert!(missing.ends_with(&format!("bind source path does not exist: {}", at("none"))), "{missing}");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let blocked = check(&sources, &[bind(&at("file/x"), true)]).await.unwrap_err();
        assert!(blocked.starts_with("could not make the bind mount source"), "{blocked}");
        assert_eq!(check(&sources, &[Mount { kind: MountKind::Tmpfs, ..bind(&at("none"), false) }]).await, Ok(()));
    }

    /// Held as long as the dead file system of the test is dead.
    static DEAD: (Mutex<(bool, usize)>, Condvar) = (Mutex::new((true, 0)), Condvar::new());

    fn hangs(source: &Source) -> io::Result<()> {
        if source.path.starts_with("/dead") {
            let mut dead = DEAD.0.lock().unwrap();
            dead.1 += 1;
            drop(DEAD.1.wait_while(dead, |dead| dead.0).unwrap());
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_dead_source_fails_its_task_alone_and_is_looked_at_once() {
        let sources = Sources { look: hangs, answer_max: Duration::from_millis(50), under_way: Arc::default() };
        for _ in 0..3 {
            let error = check(&sources, &[bind("/dead/a", false)]).await.unwrap_err();
            assert!(error.contains("/dead/a does not answer within 0.05 s"), "{error}");
            assert_eq!(check(&sources, &[bind("/alive", false)]).await, Ok(()));
        }
        assert_eq!(DEAD.0.lock().unwrap().1, 1, "one thread hangs, however often it is asked for");
        for n in 1..LOOKS_MAX {
            sources.ask(&Source { path: format!("/dead/{n}").into(), is_made: false }).unwrap();
        }
        let error = check(&sources, &[bind("/alive", false)]).await.unwrap_err();
        assert!(error.contains("64 bind mount sources"), "{error}");
        // The server is back: so is everything.
        let waiting = sources.ask(&Source { path: "/dead/a".into(), is_made: false }).unwrap();
        DEAD.0.lock().unwrap().0 = false;
        DEAD.1.notify_all();
        let mut waiting = waiting;
        tokio::time::timeout(Duration::from_secs(20), waiting.wait_for(Option::is_some)).await.unwrap().unwrap();
        assert_eq!(check(&sources, &[bind("/dead/a", false)]).await, Ok(()));
    }
}
