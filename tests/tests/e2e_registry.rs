//! Pulling from Debian's own registry server: by tag and by digest, with and without a password, and never a forged layer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_tests::e2e::{Background, Cluster, Said, wait_for};

const REFUSED: i32 = 1;
const PASSWORD: &str = "open-sesame";

/// A registry on a node's own loopback, where plain HTTP is allowed.
struct Registry {
    _running: Background,
    address: String,
    folder: PathBuf,
}

impl Registry {
    fn start(cluster: &Cluster, port: u16, password: Option<&str>) -> Self {
        let folder = cluster.scratch().join(format!("registry-{port}"));
        fs::create_dir(&folder).expect("a folder");
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}/data}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.display()
        );
        if let Some(password) = password {
            let file = folder.join("htpasswd").display().to_string();
            Said::by("htpasswd", &["-Bbc", "-C", "4", &file, "bob", password], b"", Duration::from_secs(10)).ok();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {file}}}\n");
        }
        let file = folder.join("config.yml");
        fs::write(&file, config).expect("a file");
        let log = folder.join("log");
        let running = cluster.background("m1", &["docker-registry", "serve", &file.display().to_string()], &log);
        wait_for("the registry to listen", Duration::from_secs(20), || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on")).then_some(())
        });
        Self { _running: running, address, folder }
    }

    fn curl(&self, cluster: &Cluster, args: &[&str], input: &[u8]) -> String {
        let user = format!("bob:{PASSWORD}");
        cluster.on_with("m1", &[&["curl", "--silent", "--show-error", "--fail", "--user", &user], args].concat(), input).ok()
    }

    /// Puts an image archive's blobs and its manifest into the registry as `team/busybox:TAG`, and returns the digest.
    fn push(&self, cluster: &Cluster, archive: &Path, tag: &str) -> String {
        let layout = self.folder.join("layout");
        fs::create_dir(&layout).expect("a folder");
        let (archive, into) = (archive.display().to_string(), layout.display().to_string());
        Said::by("tar", &["-xf", &archive, "-C", &into], b"", Duration::from_secs(30)).ok();
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
        let manifest_file = layout.join("blobs/sha256").join(&digest["sha256:".len()..]);
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&manifest_file).expect("a manifest")).expect("JSON");
        let base = format!("http://{}/v2/team/busybox", self.address);
        let blobs = manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]);
        for blob in blobs.map(|blob| blob["digest"].as_str().expect("a digest")) {
            let opened = self.curl(cluster, &["--request", "POST", "--dump-header", "-", &format!("{base}/blobs/uploads/")], b"");
            let location = opened.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place to upload to").trim();
            let file = format!("@{}", layout.join("blobs/sha256").join(&blob["sha256:".len()..]).display());
            let put = ["--request", "PUT", "--header", "Content-Type: application/octet-stream", "--data-binary", &file];
            self.curl(cluster, &[&put[..], &[&format!("{location}&digest={blob}")]].concat(), b"");
        }
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        let file = format!("@{}", manifest_file.display());
        self.curl(
            cluster,
            &["--request", "PUT", "--header", kind, "--data-binary", &file, &format!("{base}/manifests/{tag}")],
            b"",
        );
        digest
    }

    /// Flips one byte in the middle of the largest blob: a layer.
    fn flip(&self) {
        let list = Said::by(
            "find",
            &[&self.folder.join("data").display().to_string(), "-name", "data", "-type", "f"],
            b"",
            Duration::from_secs(10),
        );
        let files = list.ok();
        let largest = files.lines().max_by_key(|file| fs::metadata(file).map(|data| data.len()).unwrap_or(0)).expect("blobs");
        let mut bytes = fs::read(largest).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(largest, bytes).expect("the blob is changed");
    }
}

/// The ids of the images on the node, each once, however many names it has.
fn images(cluster: &Cluster) -> BTreeSet<String> {
    println!("{}", cluster.skep("m1", &["image", "ls"]).ok());
    cluster.skep("m1", &["image", "ls", "--quiet"]).ok().lines().map(str::to_owned).collect()
}

#[test]
fn images_are_pulled_by_tag_and_digest_with_and_without_a_password() {
    let cluster = Cluster::up(1, 0);
    let archive = PathBuf::from(cluster.busybox_archive());
    let open = Registry::start(&cluster, 5000, None);
    let digest = open.push(&cluster, &archive, "1");
    let by_tag = format!("{}/team/busybox:1", open.address);
    let by_digest = format!("{}/team/busybox@{digest}", open.address);

    cluster.skep("m1", &["image", "pull", &by_tag]).ok();
    assert_eq!(images(&cluster).len(), 1);
    cluster.skep("m1", &["image", "rm", &by_tag]).ok();
    assert!(images(&cluster).is_empty());
    cluster.skep("m1", &["image", "pull", &by_digest]).ok();
    assert_eq!(images(&cluster).len(), 1);
    let unknown = cluster.skep("m1", &["image", "pull", &format!("{}/team/busybox:2", open.address)]);
    unknown.refused(REFUSED, &["team/busybox:2"]);

    // A service pulls by itself, and its task proves which image it runs.
    cluster.skep("m1", &["image", "rm", &by_digest]).ok();
    let create = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        "pulled",
        "--network",
        "none",
        "--stop-grace-period",
        "1s",
        "--limit-pids",
        "20",
        &by_tag,
        "sleep",
        "1000000",
    ];
    cluster.skep("m1", &create).ok();
    assert_eq!(cluster.running("m1", "pulled").len(), 1);
    let image = ["service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "pulled"];
    assert_eq!(cluster.skep("m1", &image).ok().trim(), format!("{by_tag}@{digest}"));
    cluster.skep("m1", &["service", "rm", "pulled"]).ok();
    wait_for("its container to end", Duration::from_secs(30), || cluster.task_processes("m1").is_empty().then_some(()));
    // The service was pinned to what the registry said the tag is.
    cluster.skep("m1", &["image", "rm", &by_digest]).ok();

    open.flip();
    cluster.skep("m1", &["image", "pull", &by_tag]).fails(REFUSED, &["damaged", "sha256"]);
    assert!(images(&cluster).is_empty(), "nothing is kept of a forged image");

    let closed = Registry::start(&cluster, 5001, Some(PASSWORD));
    closed.push(&cluster, &archive, "1");
    let by_tag = format!("{}/team/busybox:1", closed.address);
    cluster.skep("m1", &["image", "pull", &by_tag]).refused(REFUSED, &["pull access denied"]);
    let wrong = cluster.skep_with("m1", &["image", "pull", "--username", "bob", &by_tag], b"wrong");
    wrong.refused(REFUSED, &["pull access denied"]);
    assert!(images(&cluster).is_empty());
    cluster.skep_with("m1", &["image", "pull", "--username", "bob", &by_tag], PASSWORD.as_bytes()).ok();
    assert_eq!(images(&cluster).len(), 1);
}
