//! The image of the proxy: another than the injector would put in, or a placeholder that nobody will replace.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::context::{
    CONFIG_MAP, Context, DEPLOYMENT, MUTATING_WEBHOOK, NAMESPACE, POD, PROXY, PROXY_CONFIG, covers,
    full_name, is_set,
};
use super::injection::{injector_of, injector_values};
use super::message::Messages;
use super::webhooks::selects;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// IST0158, once for each namespace.
pub(super) fn versions(context: &Context<'_>, out: &mut Messages) {
    let injectors = context.all(CONFIG_MAP).filter(|map| map.name().starts_with("istio-sidecar-injector"));
    let images: BTreeMap<&str, String> =
        injectors.map(|map| (map.name(), injected_image(&map.body))).collect();
    if images.is_empty() {
        return;
    }
    let types = ImageTypes::read(context);
    for namespace in context.all(NAMESPACE) {
        let revision = namespace.labels.get("istio.io/rev");
        let enabled = namespace.labels.get("istio-injection").is_some_and(|value| value == "enabled");
        let Some(revision) = revision.or(enabled.then_some("default")) else { continue };
        let Some(image) = images.get(injector_of(revision).as_str()) else { continue };
        let mut differing = vec![];
        for pod in context.pods.iter().filter(|pod| pod.namespace() == namespace.name()) {
            if pod.annotations.get("sidecar.istio.io/proxyImage").is_some_and(|image| !image.is_empty()) {
                continue;
            }
            let typed = format!("{image}-{}", types.of(pod));
            let containers =
                pod.body.list("spec.containers").iter().chain(pod.body.list("spec.initContainers"));
            for container in containers.filter(|container| container.text("name") == Some(PROXY)) {
                let own = container.string("image");
                if own != *image && own != typed {
                    differing.push(pod.name());
                }
            }
        }
        if !differing.is_empty() {
            let text = format!("the proxies of pods {differing:?} are not of the injector's image {image}");
            out.push("IST0158", namespace, "", text);
        }
    }
}

/// The image that an injector puts in; empty where its values cannot be read.
fn injected_image(body: &Value) -> String {
    let Some(values) = injector_values(body) else { return String::new() };
    let field = |path: &str| match values.at(path) {
        Some(Value::String(text)) => Some(text.to_string()),
        None => Some(String::new()),
        Some(_) => None,
    };
    match (field("global.hub"), field("global.proxy.image"), field("global.tag")) {
        (Some(_), Some(image), Some(_)) if image.contains('/') => image,
        (Some(hub), Some(image), Some(tag)) => format!("{hub}/{image}:{tag}"),
        _ => String::new(),
    }
}

/// Which variant of the image (`distroless`) is asked for, from the widest to the narrowest.
struct ImageTypes<'a> {
    mesh: String,
    root: String,
    namespaces: BTreeMap<&'a str, String>,
    workloads: Vec<(String, Labels, String)>,
}

impl<'a> ImageTypes<'a> {
    fn read(context: &Context<'a>) -> Self {
        let istio = context.istio();
        let mut types = ImageTypes {
            mesh: istio.mesh_config.string("defaultConfig.image.imageType"),
            root: String::new(),
            namespaces: BTreeMap::new(),
            workloads: vec![],
        };
        for config in context.all(PROXY_CONFIG) {
            let image = config.body.string("spec.image.imageType");
            if config.namespace() == istio.root_namespace {
                types.root = image;
            } else if is_set(&config.body, "spec.selector") {
                let selector = config.body.text_map("spec.selector.matchLabels");
                types.workloads.push((full_name(config), selector, image));
            } else {
                types.namespaces.insert(config.namespace(), image);
            }
        }
        types
    }

    /// The variant of a pod; empty for the usual image.
    fn of(&self, pod: &Object) -> String {
        let annotated = pod.annotations.get("proxy.istio.io/config").and_then(|text| {
            let config: Value = serde_saphyr::from_str(text).ok()?;
            config.text("image.imageType").map(str::to_owned)
        });
        // A ProxyConfig is taken for the pod's own when its full name begins with the pod's namespace.
        let of_workload = self
            .workloads
            .iter()
            .filter(|(name, selector, _)| name.starts_with(pod.namespace()) && covers(selector, &pod.labels));
        let narrower = of_workload.map(|(_, _, image)| image.clone()).chain(annotated);
        let wider = [self.mesh.clone(), self.root.clone()].into_iter();
        let mut all = wider.chain(self.namespaces.get(pod.namespace()).cloned()).chain(narrower);
        let asked = all.rfind(|image| !image.is_empty()).unwrap_or_default();
        if asked == "default" { String::new() } else { asked }
    }
}

fn has_placeholder(spec: Option<&Value>) -> bool {
    let containers = spec.map_or(&[][..], |spec| spec.list("containers"));
    containers.iter().any(|c| c.text("name") == Some(PROXY) && c.text("image") == Some("auto"))
}

/// IST0146 and IST0147: `image: auto` is for the injector to replace.
pub(super) fn automatic(context: &Context<'_>, out: &mut Messages) {
    for pod in context.all(POD).filter(|pod| has_placeholder(pod.body.at("spec"))) {
        let text = format!("Pod {} kept image auto: no injector replaced it", pod.name());
        out.push("IST0147", pod, "", text);
    }
    let hooks: Vec<&Value> = context
        .all(MUTATING_WEBHOOK)
        .flat_map(|configuration| configuration.body.list("webhooks"))
        .filter(|hook| hook.text("name").is_some_and(|name| name.ends_with("istio.io")))
        .collect();
    for deployment in context.all(DEPLOYMENT) {
        if !has_placeholder(deployment.body.at("spec.template.spec")) {
            continue;
        }
        let namespace = if deployment.namespace().is_empty() { "default" } else { deployment.namespace() };
        let of_namespace = context.namespace_labels(namespace).cloned().unwrap_or_default();
        let of_pods = deployment.body.text_map("spec.template.metadata.labels");
        if !hooks.iter().any(|hook| selects(hook, &of_namespace, &of_pods)) {
            let text = format!(
                "Deployment {} has image auto, and no injector's webhook selects its pods",
                deployment.name()
            );
            out.push("IST0146", deployment, "", text);
        }
    }
}
