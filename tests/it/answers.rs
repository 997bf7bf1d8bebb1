//! The recorded incidents as a user meets them: served by `meshscope replay`, asked about with the real `kubectl`, answered
//! by the controller.

use meshscope::model::fields::Fields;
use meshscope::model::json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::replay::kubectl;
use crate::scenarios::{Expected, scenarios};

/// Incidents at a time: what one waits for, another may use.
const AT_ONCE: usize = 3;
/// How long `kubectl` waits for one, in seconds: a bound for what hangs, a hundred times what it takes.
const PATIENCE: u32 = 240;

/// A replay that ends with the test.
struct Replay {
    child: Child,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Replay {
    fn start(bundle: &Path, kubectl: &Path, folder: &Path) -> Self {
        let kubeconfig = folder.join("kubeconfig");
        let child = Command::new(env!("CARGO_BIN_EXE_meshscope"))
            .args(["replay", "--kubeconfig"])
            .arg(&kubeconfig)
            .arg(bundle)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut replay = Replay { child, kubectl: kubectl.to_owned(), kubeconfig };
        // It says how to reach it once it listens; an end before that is no start.
        let said = BufReader::new(replay.child.stdout.as_mut().unwrap()).lines();
        let ready = said.map_while(Result::ok).any(|line| line.contains("KUBECONFIG"));
        assert!(ready, "the replay of {} ended", bundle.display());
        replay
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env("HOME", folder)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespace of what was wrong: that of the replay's own choice where nothing was.
fn namespace(expected: &Expected) -> Option<&str> {
    expected.root_cause.first()?.split_once(' ')?.1.split_once('/').map(|(namespace, _)| namespace)
}

/// The status of a session about all of one namespace.
fn ask(bundle: &Path, namespace: Option<&str>, kubectl: &Path) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("session.json");
    let body = json!({"apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession", "metadata": {"name": "why"}, "spec": {"target": {}}});
    std::fs::write(&session, body.to_string()).unwrap();
    let replay = Replay::start(bundle, kubectl, folder.path());
    let inside = namespace.map(|namespace| format!("--namespace={namespace}"));
    let run = |arguments: &[&str]| {
        let all: Vec<&str> = inside.as_deref().into_iter().chain(arguments.iter().copied()).collect();
        replay.run(folder.path(), &all)
    };
    run(&["apply", "--filename", session.to_str().unwrap()])?;
    run(&["wait", "dbg/why", "--for=condition=Finished", &format!("--timeout={PATIENCE}s")])?;
    let session: Value = serde_json::from_str(&run(&["get", "dbg", "why", "--output", "json"])?).unwrap();
    Ok(session["status"].clone())
}

/// What is wrong with a status; `None` where it is right.
fn judge(expected: &Expected, status: &Value) -> Option<String> {
    let verdict = status.text("summary.verdict").unwrap_or_default();
    let first = status.list("rootCauses").first().map(|cause| {
        let subject = &cause["subject"];
        let (kind, name) = (subject.string("kind"), subject.string("name"));
        match subject.string("namespace") {
            space if space.is_empty() => format!("{kind} {name}"),
            space => format!("{kind} {space}/{name}"),
        }
    });
    let right = match &first {
        None => expected.healthy && verdict == "Healthy",
        Some(named) => expected.root_cause.contains(named) && verdict == "RootCauseFound",
    };
    (!right).then(|| format!("{verdict}, {first:?} instead of {:?}", expected.root_cause))
}

#[test]
fn the_controller_says_the_same_through_kubectl() {
    let Some(kubectl) = kubectl() else { return };
    let todo = Mutex::new(scenarios());
    let wrong = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((path, expected)) = todo.lock().unwrap().pop() else { break };
                    let answer = ask(&path.join("bundle.tar.zst"), namespace(&expected), &kubectl);
                    let problem = answer.map_or_else(Some, |status| judge(&expected, &status));
                    if let Some(problem) = problem {
                        wrong.lock().unwrap().push(format!("{}: {problem}", path.display()));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
