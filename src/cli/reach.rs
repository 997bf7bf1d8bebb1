//! `meshscope reach`: who can reach a Service, asked of a bundle or of plain YAML.

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::analyze::diagnosis::{Options, analyze};
use crate::analyze::finding::Finding;
use crate::analyze::twin::Twin;
use crate::analyze::twin::gateway_api::unmatched;
use crate::analyze::twin::reach::{MAX_ASKED, Reach, reach};
use crate::collect::assemble::assemble;
use crate::collect::bundle;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::source::Location;
use crate::report;
use crate::report::json::SubjectView;

/// The rule that finds routes that never match.
const SHADOWED: &str = "ISTIO108";

/// Say who can reach a Service, and what refuses the others
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundles, folders, archives or YAML files; `-` is standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// The Service, as NS/NAME; left out, all of them in short
    #[arg(long, value_name = "NS/NAME")]
    to: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to print the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// To read
    Text,
    /// The stable, versioned document
    Json,
}

/// The JSON document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: u32,
    services: &'a [Reach],
    unmatched_routes: &'a [Unmatched],
}

/// A route that no request matches.
#[derive(Debug, Serialize)]
struct Unmatched {
    route: SubjectView,
    title: String,
    #[serde(skip)]
    location: Option<Location>,
}

/// Routes that no request matches: of VirtualServices, as the rule for them says, and of the Gateway API.
fn unmatched_routes(snapshot: &Snapshot, findings: &[Finding]) -> Vec<Unmatched> {
    let mut out: Vec<Unmatched> = findings
        .iter()
        .map(|finding| Unmatched {
            route: (&finding.subject).into(),
            title: finding.title.clone(),
            location: finding.location.clone(),
        })
        .collect();
    let own: Vec<unmatched::Unmatched> = unmatched::unmatched(snapshot)
        .into_iter()
        .filter(|found| snapshot.in_scope(&found.route.namespace))
        .collect();
    let subjects: Vec<&ObjectRef> = own.iter().map(|found| &found.route).collect();
    let locations = snapshot.locate(&subjects);
    for (found, location) in own.iter().zip(locations) {
        let title = format!(
            "{} {} never matches: {} of {} takes its requests first",
            found.route, found.route.field_path, found.by.field_path, found.by
        );
        out.push(Unmatched { route: (&found.route).into(), title, location });
    }
    out
}

impl Args {
    /// Reads, asks, prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let snapshot = assemble(bundle::read(&self.paths)?);
        let services = self.services(&snapshot)?;
        let twin = Twin::new(&snapshot);
        let mut left = MAX_ASKED;
        let all: Vec<Reach> = services.into_iter().map(|service| reach(&twin, service, &mut left)).collect();
        let options = Options { rules: vec![SHADOWED.to_owned()], ..Options::default() };
        let diagnosis = analyze(&snapshot, &options);
        let routes = unmatched_routes(&snapshot, &diagnosis.findings);
        match self.output {
            Output::Text => {
                let colour = super::colour();
                let told = if self.to.is_some() {
                    report::reach::render(&all, colour)
                } else {
                    report::reach::overview(&all, colour) + "\n"
                };
                let routes = routes.iter().map(|route| (route.title.as_str(), route.location.as_ref()));
                super::print(&(told + &report::reach::unmatched(routes)))
            }
            Output::Json => {
                let document = Document { version: 1, services: &all, unmatched_routes: &routes };
                super::print(&format!("{}\n", serde_json::to_string_pretty(&document)?))
            }
        }
    }

    /// The Services that are asked about.
    fn services<'a>(&self, snapshot: &'a Snapshot) -> anyhow::Result<Vec<&'a Service>> {
        let Some(to) = &self.to else {
            let wanted = |service: &&Service| snapshot.in_scope(service.object.namespace());
            return Ok(snapshot.services.iter().filter(wanted).collect());
        };
        let (namespace, name) = to
            .split_once('/')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
            .with_context(|| format!("cannot read the Service {to:?}: write it as NS/NAME"))?;
        let service = snapshot.service(&ServiceName::new(namespace, name)).with_context(|| {
            let there: Vec<String> = snapshot
                .services
                .iter()
                .filter(|service| service.object.namespace() == namespace)
                .take(8)
                .map(|service| service.object.name().to_owned())
                .collect();
            if there.is_empty() {
                format!("there is no Service {to}, nor any other in namespace {namespace}")
            } else {
                format!("there is no Service {to}; namespace {namespace} has {}", there.join(", "))
            }
        })?;
        Ok(vec![service])
    }
}
