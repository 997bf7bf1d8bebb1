//! The operator as the chart would run it: with the configuration file that the chart renders, and as the service
//! account that the chart gives its roles to. It looks at one namespace, so that tests do not meet.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::{installed, rendered};
use crate::support::Cluster;

/// A release of the chart in a namespace of its own, without pods: its operators are processes of the test.
pub(crate) struct Release {
    cluster: &'static Cluster,
    /// The namespace that it is in and looks at.
    pub(crate) space: String,
    config: String,
    folder: TempDir,
}

impl Release {
    /// Applies what the chart renders with these values, and makes a kubeconfig of its service account.
    pub(crate) fn new(cluster: &'static Cluster, about: &str, mut values: Value) -> Self {
        installed(cluster);
        let space = cluster.namespace(about);
        values["watchNamespaces"] = json!([space]);
        values["crds"] = json!({ "enabled": false });
        values["replicas"] = json!(0);
        values["admissionPolicy"] = json!({ "requester": false });
        let objects = rendered(cluster, &space, &values).unwrap();
        for object in &objects {
            cluster.apply(&object.to_string());
        }
        let config =
            objects.iter().find_map(|object| object["data"]["config.yaml"].as_str()).unwrap().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let token =
            cluster.kubectl(&["--namespace", &space, "create", "token", "meshscope", "--duration=2h"]);
        std::fs::write(folder.path().join("kubeconfig"), cluster.kubeconfig_with_token(token.trim()))
            .unwrap();
        Self { cluster, space, config, folder }
    }

    /// Starts an operator and waits until it says that it is ready.
    pub(crate) fn start(&self, name: &str) -> Operator {
        let address = free_address();
        let config = self
            .config
            .replace("0.0.0.0:8080", &address.to_string())
            // The shortest one, since tests wait for it to run out.
            .replace("  leaseName:", "  leaseDuration: 5s\n  leaseName:");
        assert!(config.contains(&address.to_string()) && config.contains("leaseDuration"), "{config}");
        let path = |extension: &str| self.folder.path().join(format!("{name}.{extension}"));
        std::fs::write(path("yaml"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_meshscope"))
            .arg("run")
            .arg("--config")
            .arg(path("yaml"))
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", &self.space)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut operator = Operator { child, address, log: path("log") };
        self.cluster.eventually("ready operator", || {
            let ended = operator.child.try_wait().unwrap();
            assert!(ended.is_none(), "the operator ended: {ended:?}");
            operator.get("/readyz").filter(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        operator
    }

    /// kubectl in the release's namespace, as the administrator.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", &self.space], args].concat())
    }

    /// Applies a session.
    pub(crate) fn ask(&self, name: &str, spec: &Value) {
        self.cluster.apply(&crate::schema::session(&self.space, name, spec));
    }

    /// Changes a session: a JSON merge patch.
    pub(crate) fn change(&self, name: &str, patch: &Value) {
        self.kubectl(&["patch", "dbg", name, "--type=merge", "--patch", &patch.to_string()]);
    }

    /// A session as it stands.
    pub(crate) fn session(&self, name: &str) -> Value {
        self.cluster.get_json(&["--namespace", &self.space, "dbg", name])
    }

    /// Waits until a session is as `wanted`.
    pub(crate) fn session_when(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.cluster.eventually(what, || Some(self.session(name)).filter(&wanted))
    }

    /// Waits, as a user does, until a session is finished.
    pub(crate) fn finished(&self, name: &str) -> Value {
        self.wait(name, "Finished");
        self.session(name)
    }

    /// `kubectl wait` for a condition.
    pub(crate) fn wait(&self, name: &str, condition: &str) {
        let timeout = format!("--timeout={}s", crate::support::PATIENCE.as_secs());
        let condition = format!("--for=condition={condition}");
        self.kubectl(&["wait", &format!("dbg/{name}"), &condition, &timeout]);
    }
}

/// A condition of a session: its status and reason.
pub(crate) fn condition<'a>(session: &'a Value, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = session["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    Some((found["status"].as_str()?, found["reason"].as_str()?))
}

/// A running operator; it is killed when it is dropped.
pub(crate) struct Operator {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Operator {
    /// The whole answer to a GET request, if it answers.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Ends it as a lost node would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a rolling update would, and gives its exit status.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let ended = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(ended.success());
        self.child.wait().unwrap().code()
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            println!("the operator's last lines, the newest first:\n{}", tail.join("\n"));
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
