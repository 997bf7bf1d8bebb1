//! What stands in a file of `faults/`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One fault, or two at once. `$NS` anywhere in its file is the namespace that the shop is in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// The file's name.
    #[serde(skip)]
    pub(crate) name: String,
    /// What is done, in one sentence.
    pub(crate) what: String,
    /// How the shop is before.
    #[serde(default)]
    pub(crate) shop: Setup,
    /// How the fault is put in.
    pub(crate) steps: Vec<Step>,
    /// What users feel.
    pub(crate) felt: Felt,
    /// What the session asks for; the whole namespace unless said. In the form of `spec.target`.
    #[serde(default)]
    pub(crate) ask: Value,
    /// What is wrong: one, or two at once.
    pub(crate) causes: Vec<Cause>,
}

/// The shop before the fault.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Setup {
    /// With sidecars, and with `istio.yaml`.
    pub(crate) mesh: bool,
    /// Second versions that run beside the first ones.
    pub(crate) with: Vec<String>,
    /// A rollout ends the old pods before it starts the new ones, so that users feel a bad one.
    pub(crate) recreate: bool,
    /// How users come in.
    pub(crate) entry: Entry,
    /// Requests a second.
    pub(crate) rate: Option<u32>,
    /// What else is done before the shop has to be well.
    pub(crate) steps: Vec<Step>,
}

/// How users come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// From a pod in the namespace, straight to frontend.
    #[default]
    Inside,
    /// Through Istio's ingress gateway.
    Gateway,
    /// Through a Gateway of the Gateway API.
    GatewayApi,
}

/// Something that is done to the shop.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// An object that is applied.
    Apply(Value),
    /// An object that is changed, such as `service/payment`.
    Patch {
        object: String,
        #[serde(default)]
        json: Value,
        #[serde(default)]
        merge: Value,
    },
    /// Arguments of kubectl.
    Kubectl(Vec<String>),
    /// Something that a running service is asked for: `shop fault …` in its pod.
    Ask { deployment: String, fault: String },
}

/// What users feel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Felt {
    /// Requests fail.
    Errors,
    /// Requests take long, or fail for that.
    Slow,
    /// Nothing, as yet: a rollout does not get on, and the old pods serve.
    Rollout,
}

/// What is wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cause {
    /// Objects that it can be said to lie in, such as `Service payment`; the best first.
    pub(crate) objects: Vec<String>,
    /// The field that is named must contain one of these.
    pub(crate) field: Vec<String>,
    /// The mechanism or the title must contain one of these.
    pub(crate) mechanism: Vec<String>,
    /// The fix must contain one of these: the field or the value that heals.
    pub(crate) fix: Vec<String>,
}

impl Fault {
    /// As it stands in a file, put into a namespace.
    fn read(path: &Path, namespace: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut fault: Fault = serde_saphyr::from_str(&text.replace("$NS", namespace))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fault.name = path.file_stem().unwrap().to_string_lossy().into_owned();
        fault
    }

    fn path(name: &str) -> PathBuf {
        root().join("tests/live/faults").join(name).with_extension("yaml")
    }

    /// The same, put into a namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self::read(&Self::path(&self.name), namespace)
    }
}

/// All of them, by name.
pub(crate) fn all() -> Vec<Fault> {
    let mut out: Vec<Fault> = std::fs::read_dir(root().join("tests/live/faults"))
        .unwrap()
        .map(|entry| Fault::read(&entry.unwrap().path(), "$NS"))
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

#[test]
fn the_faults_are_many_and_whole() {
    let all = all();
    for fault in &all {
        let about = &fault.name;
        assert!(!fault.what.is_empty() && fault.what.ends_with('.'), "{about}: `what` is a sentence");
        assert!(!fault.steps.is_empty() && (1..=2).contains(&fault.causes.len()), "{about}");
        assert!(fault.name.len() <= 40, "{about}: a namespace is named after it");
        for cause in &fault.causes {
            assert!(
                !cause.objects.is_empty() && !cause.mechanism.is_empty() && !cause.fix.is_empty(),
                "{about}: what the truth is"
            );
            assert!(cause.objects.iter().all(|object| object.split(' ').count() == 2), "{about}: Kind name");
        }
        let patches = fault.shop.steps.iter().chain(&fault.steps);
        for step in patches {
            if let Step::Patch { json, merge, object } = step {
                assert!(json.is_array() != merge.is_object(), "{about}: {object} is patched in one way");
            }
        }
    }
    let mesh = all.iter().filter(|fault| fault.shop.mesh).count();
    let double = all.iter().filter(|fault| fault.causes.len() == 2).count();
    assert!(
        all.len() >= 40 && mesh >= 25 && double >= 5,
        "{} faults, {mesh} in the mesh, {double} double",
        all.len()
    );
}
