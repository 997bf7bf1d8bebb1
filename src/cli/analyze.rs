//! `meshscope analyze`: a diagnosis of a bundle or of plain YAML, without a cluster.

use anyhow::Context;
use clap::ValueEnum;
use jiff::Timestamp;
use std::path::PathBuf;
use std::process::ExitCode;

use super::request;
use crate::analyze::diagnosis::{Diagnosis, Options, StrictAliases, analyze};
use crate::analyze::finding::Severity;
use crate::analyze::registry::RULES;
use crate::analyze::twin::ask::Ask;
use crate::api::v1alpha1::DebugSession;
use crate::collect::assemble::assemble;
use crate::collect::bundle;
use crate::collect::material::{ManifestTarget, Material};
use crate::controller::asked::asked;
use crate::model::fields::Fields;
use crate::report::{json, markdown, terminal};

/// Say why a service fails, from a bundle or from plain Kubernetes YAML
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundles: folders, archives or YAML and JSON files, read as one; `-` is standard input
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The same as PATH, as kubectl calls it
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Look at this namespace only
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Ask about this Service; may be given several times
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Ask what this DebugSession asks (its target), from its YAML
    #[arg(long, value_name = "FILE", conflicts_with_all = ["namespace", "service"])]
    session: Option<PathBuf>,
    /// Since when it fails, such as 2026-11-21T09:41:00Z: what deviates from the time before can be the answer
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    onset: Option<Timestamp>,
    /// Say too what the mesh does with this request (`GET http://checkout.shop/pay`)
    #[arg(long, value_name = "REQUEST", requires = "from")]
    request: Option<String>,
    /// Where that request comes from: NS/WORKLOAD, gateway:NS/NAME (a client outside) or an IP address
    #[arg(long, value_name = "SOURCE", requires = "request")]
    from: Option<String>,
    /// A header of that request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "request")]
    headers: Vec<String>,
    /// How to print the diagnosis
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Run only these rules: codes or names, joined by commas
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    rules: Vec<String>,
    /// Leave out these rules
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    skip_rules: Vec<String>,
    /// Say also what this tool would, and give findings its codes exactly where, and as often as, it reports them
    #[arg(long, value_enum, value_name = "TOOL")]
    strict_aliases: Option<Tool>,
    /// Leave out findings below this severity
    #[arg(long, value_enum, value_name = "S")]
    min_severity: Option<Level>,
    /// Exit with status 1 if there is a finding of this severity or above
    #[arg(long, value_enum, value_name = "S")]
    fail_on: Option<Level>,
}

/// How to print a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a terminal
    Text,
    /// The stable, versioned document
    Json,
    /// The same document as YAML
    Yaml,
    /// For tickets and chats
    Markdown,
}

/// A tool that can be followed to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// istioctl analyze
    Istioctl,
}

impl From<Tool> for StrictAliases {
    fn from(tool: Tool) -> Self {
        match tool {
            Tool::Istioctl => StrictAliases::Istioctl,
        }
    }
}

/// A severity on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Critical,
    Error,
    Warning,
    Info,
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Critical => Severity::Critical,
            Level::Error => Severity::Error,
            Level::Warning => Severity::Warning,
            Level::Info => Severity::Info,
        }
    }
}

impl Args {
    /// Reads, analyses, prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let paths: Vec<PathBuf> = self.paths.iter().chain(&self.files).cloned().collect();
        anyhow::ensure!(
            !paths.is_empty(),
            "nothing to read: name a bundle, a folder of YAML, or - for standard input (meshscope analyze incident.tar.zst)"
        );
        for code in self.rules.iter().chain(&self.skip_rules) {
            let known = RULES
                .iter()
                .any(|rule| rule.meta().code.eq_ignore_ascii_case(code) || rule.meta().name == code);
            anyhow::ensure!(known, "there is no rule {code:?}: `meshscope rules` lists them");
        }
        let ask = match (&self.request, &self.from) {
            (Some(line), Some(from)) => Some(request::read_one(line, from, &self.headers)?),
            _ => None,
        };
        let mut material = bundle::read(&paths)?;
        let ask = ask.map_or_else(|| self.request_of_session(), |ask| Ok(Some(ask)))?;
        let request_id = self.aim(&mut material)?;
        material.manifest.onset = self.onset.or(material.manifest.onset);
        let name = name(&material, &paths);
        let snapshot = assemble(material);
        let diagnosis = analyze(
            &snapshot,
            &Options {
                rules: self.rules.clone(),
                skip: self.skip_rules.clone(),
                strict_aliases: self.strict_aliases.map(StrictAliases::from),
                request: ask,
                request_id,
            },
        );
        let reached =
            |level: Level| diagnosis.findings.iter().any(|finding| finding.severity >= level.into());
        let failed = self.fail_on.is_some_and(reached);
        super::print(&self.render(&diagnosis, &name)?)?;
        // The process ends here and gives its memory back as a whole: piece by piece takes a tenth of the time.
        std::mem::forget((snapshot, diagnosis));
        Ok(if failed { ExitCode::from(super::FOUND) } else { ExitCode::SUCCESS })
    }

    /// The request that the session of `--session` asks about.
    fn request_of_session(&self) -> anyhow::Result<Option<Ask>> {
        let Some(path) = &self.session else { return Ok(None) };
        let session = bundle::read(std::slice::from_ref(path))?;
        let session = session.objects.into_iter().find(|object| object.text("kind") == Some("DebugSession"));
        let Some(session) = session.filter(|session| session.at("spec.symptom.request").is_some()) else {
            return Ok(None);
        };
        let session: DebugSession = session
            .read()
            .with_context(|| format!("{} holds no session that can be read", path.display()))?;
        Ok(asked(&session))
    }

    /// Sets what is asked about. Gives the id of the request that the session wants followed, empty where it names none.
    fn aim(&self, material: &mut Material) -> anyhow::Result<String> {
        if let Some(path) = &self.session {
            let session = bundle::read(std::slice::from_ref(path))?;
            material.manifest.target =
                Some(target_of_session(&session).with_context(|| path.display().to_string())?);
            let Some(asked) =
                session.objects.iter().find(|object| object.text("kind") == Some("DebugSession"))
            else {
                return Ok(String::new());
            };
            if let Some(onset) = asked.text("spec.symptom.onset") {
                let parsed =
                    super::time(onset).with_context(|| format!("{}: spec.symptom.onset", path.display()))?;
                material.manifest.onset = Some(parsed);
            }
            return Ok(asked.string("spec.symptom.requestId"));
        }
        if self.namespace.is_none() && self.service.is_empty() {
            return Ok(String::new());
        }
        let mut target = material.manifest.target.clone().unwrap_or_default();
        if let Some(namespace) = &self.namespace
            && *namespace != target.namespace
        {
            target = ManifestTarget { namespace: namespace.clone(), services: vec![] };
        }
        if !self.service.is_empty() {
            target.services.clone_from(&self.service);
        }
        material.manifest.target = Some(target);
        Ok(String::new())
    }

    /// The diagnosis in the form that was asked for.
    fn render(&self, diagnosis: &Diagnosis, name: &str) -> anyhow::Result<String> {
        let mut document = json::document(diagnosis);
        if let Some(level) = self.min_severity {
            let kept: Vec<String> = diagnosis
                .findings
                .iter()
                .filter(|f| f.severity >= level.into())
                .map(|f| f.id.clone())
                .collect();
            document.findings.retain(|finding| kept.contains(&finding.id));
        }
        Ok(match self.output {
            Output::Text => terminal::render(diagnosis, name, super::colour()),
            Output::Markdown => markdown::render(diagnosis, name),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&document)?),
            Output::Yaml => serde_saphyr::to_string(&document)?,
        })
    }
}

/// The target of the DebugSession in a file.
fn target_of_session(material: &Material) -> anyhow::Result<ManifestTarget> {
    let session = material.objects.iter().find(|object| object.text("kind") == Some("DebugSession"));
    let session = session.context("holds no DebugSession: write one as in examples/sessions")?;
    let own = session.text("metadata.namespace").unwrap_or("default");
    Ok(ManifestTarget {
        namespace: session.text("spec.target.namespace").unwrap_or(own).to_owned(),
        services: session.texts("spec.target.services"),
    })
}

/// What the answer is about, for its first line.
fn name(material: &Material, paths: &[PathBuf]) -> String {
    match &material.manifest.target {
        Some(target) if !target.services.is_empty() => {
            format!("{}/{}", target.namespace, target.services.join(","))
        }
        Some(target) if !target.namespace.is_empty() => target.namespace.clone(),
        _ => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
    }
}
