//! The API server, through `kubectl proxy`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that is waited for; the machine may be busy with other work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// A way to the API server. It ends with its owner.
#[derive(Debug)]
pub(crate) struct Api {
    base: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    proxy: Child,
}

impl Api {
    /// To the cluster that the environment names.
    pub(crate) fn from_environment() -> Option<Self> {
        let kubeconfig = std::env::var_os("MESHSCOPE_LIVE_KUBECONFIG")?;
        let mut path = std::env::var_os("MESHSCOPE_TEST_TOOLS").unwrap_or_default();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut proxy = Command::new("kubectl")
            .args(["proxy", "--port=0"])
            .env("KUBECONFIG", kubeconfig)
            .env("PATH", path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(address.contains(':'), "kubectl proxy says {line:?}");
        // The client takes none by itself, though nothing is encrypted on this way.
        meshscope::telemetry::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Some(Self { base: format!("http://{address}"), http: reqwest::Client::new(), runtime, proxy })
    }

    /// Status and text of an answer.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let method: reqwest::Method = method.parse().unwrap();
        let kind = if method == reqwest::Method::PATCH {
            "application/apply-patch+yaml"
        } else {
            "application/json"
        };
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.header("content-type", kind).body(body.to_string());
        }
        let answer = self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        });
        answer.unwrap_or_else(|error| (0, error.to_string()))
    }

    /// An object or a list; panics where there is none.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, text) = self.call("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Makes an object as it is written; the message where the server refuses it.
    pub(crate) fn apply(&self, object: &Value) -> Result<Value, String> {
        let path = format!("{}?fieldManager=pairs&force=true", path_of(object));
        match self.call("PATCH", &path, Some(object)) {
            (200 | 201, text) => Ok(serde_json::from_str(&text).unwrap_or_default()),
            (status, text) => Err(format!("{status}: {text}")),
        }
    }

    /// Removes an object, if it is there.
    pub(crate) fn delete(&self, object: &Value) {
        let (status, text) = self.call("DELETE", &path_of(object), None);
        assert!(matches!(status, 200 | 202 | 404), "DELETE {}: {text}", path_of(object));
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// Where an object is.
fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let kind = text(&object["kind"]).to_lowercase();
    let plural = match kind.as_str() {
        _ if kind.ends_with("policy") || kind.ends_with("entry") => {
            format!("{}ies", kind.trim_end_matches('y'))
        }
        _ => format!("{kind}s"),
    };
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{root}/{version}/{plural}/{name}"),
    }
}

/// Asks until there is an answer.
pub(crate) fn wait<T>(what: &str, pace: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(seen) => {
                assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}: {seen}")
            }
        }
        std::thread::sleep(pace);
    }
}
