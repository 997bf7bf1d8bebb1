//! The cluster under test, and the tools that a user drives it with.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that a test waits for. Long enough for a machine that is busy with other work: a
/// test that succeeds never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A running API server.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The administrator's kubeconfig.
    kubeconfig: PathBuf,
    tools: PathBuf,
    /// Whether the chart was installed in it.
    pub(crate) chart: Once,
    /// Whether it serves Istio's kinds.
    pub(crate) istio: Once,
    /// Whether it has a node.
    pub(crate) node: Once,
}

impl Cluster {
    fn new(kubeconfig: PathBuf, tools: PathBuf) -> Self {
        Self { kubeconfig, tools, chart: Once::new(), istio: Once::new(), node: Once::new() }
    }

    /// The cluster that the environment names; `None` where there is none, after having said so once.
    pub(crate) fn get() -> Option<&'static Self> {
        static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
        CLUSTER
            .get_or_init(|| {
                let found = Option::zip(
                    std::env::var_os("MESHSCOPE_TEST_KUBECONFIG"),
                    std::env::var_os("MESHSCOPE_TEST_TOOLS"),
                );
                if found.is_none() {
                    assert!(
                        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                        "CI has to test on an API server: run ./test"
                    );
                    // Not `eprintln!`: what a passing test prints that way is not shown.
                    let _ = writeln!(
                        std::io::stderr(),
                        "No API server was named: the tests of this binary are left out. ./test starts one."
                    );
                }
                found.map(|(kubeconfig, tools)| Self::new(kubeconfig.into(), tools.into()))
            })
            .as_ref()
    }

    /// The cluster with nodes that the environment names; `None` where there is none, after having said so once. It may
    /// have been running for long, and others may use it at the same time.
    pub(crate) fn with_nodes() -> Option<&'static Self> {
        static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
        CLUSTER
            .get_or_init(|| {
                let found = Option::zip(
                    std::env::var_os("MESHSCOPE_LIVE_KUBECONFIG"),
                    std::env::var_os("MESHSCOPE_TEST_TOOLS"),
                );
                if found.is_none() {
                    let _ = writeln!(
                        std::io::stderr(),
                        "No cluster with nodes was named: the tests on running pods are left out. ./test --cluster starts one."
                    );
                }
                found.map(|(kubeconfig, tools)| Self::new(kubeconfig.into(), tools.into()))
            })
            .as_ref()
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A cluster of its own for a test that others would notice. It ends with the tests.
    pub(crate) fn another() -> &'static Self {
        static ANOTHER: OnceLock<Cluster> = OnceLock::new();
        ANOTHER.get_or_init(|| {
            let shared = Self::get().unwrap();
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/up");
            // Inside the shared one's folder, which `./test` removes with everything that runs from it.
            let folder = shared.kubeconfig.with_file_name("another");
            let kubeconfig = folder.join("kubeconfig");
            if !kubeconfig.exists() {
                let output = Command::new(script).arg(&folder).stderr(Stdio::inherit()).output().unwrap();
                assert!(output.status.success(), "{script} failed");
            }
            Self::new(kubeconfig, shared.tools.clone())
        })
    }

    /// The kubeconfig with another token in it.
    pub(crate) fn kubeconfig_with_token(&self, token: &str) -> String {
        let mut config: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&self.kubeconfig).unwrap()).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token });
        config.to_string()
    }

    /// Makes a namespace of its own for a test. Nobody removes it: the cluster does not outlive the tests.
    pub(crate) fn namespace(&self, about: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{about}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]);
        name
    }

    /// What kubectl prints, run as the administrator; panics with its message when it fails.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|message| panic!("kubectl {}: {message}", args.join(" ")))
    }

    /// What kubectl prints, or its message when it fails.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.tool("kubectl", args, "")
    }

    /// What kubectl prints, or its message when it fails; given something to read.
    pub(crate) fn try_kubectl_with(&self, args: &[&str], input: &str) -> Result<String, String> {
        self.tool("kubectl", args, input)
    }

    /// What helm prints, or its message when it fails.
    pub(crate) fn try_helm(&self, args: &[&str]) -> Result<String, String> {
        self.tool("helm", args, "")
    }

    /// Applies a manifest as the administrator.
    pub(crate) fn apply(&self, manifest: &str) {
        self.try_kubectl_with(&["apply", "--server-side", "--filename", "-"], manifest)
            .unwrap_or_else(|message| panic!("{manifest}\n{message}"));
    }

    /// What `kubectl get` finds, as JSON.
    pub(crate) fn get_json(&self, what: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "--output", "json"], what].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// A tool that talks to this cluster as the administrator.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// A line of a shell whose tools talk to this cluster as the administrator.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("KUBECONFIG", &self.kubeconfig);
        command.env("PATH", format!("{}:{path}", self.tools.display()));
        command
    }

    fn tool(&self, name: &str, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = self
            .command(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        // What is written fits into a pipe's buffer or is read as it comes; a tool that reads nothing closes it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Asks again until there is an answer, for as long as [`PATIENCE`] lasts.
    pub(crate) fn eventually<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
