//! `meshscope report`: the whole report of a session, from the cluster of the current kubeconfig.

use anyhow::Context;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::api::v1alpha1::DebugSession;
use crate::controller::fetch::fetch;
use crate::controller::publish;
use crate::telemetry;

/// Print the whole report of a session of the current cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session: NAME or dbg/NAME
    #[arg(value_name = "dbg/NAME")]
    session: String,
    /// Its namespace; the context's own where it is left out
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// What to print of it
    #[arg(short, long, value_enum, default_value_t = Output::Markdown)]
    output: Output,
    /// The kubeconfig's context to use instead of its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig to use instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// What to print of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Markdown,
    /// The stable, versioned document
    Json,
    /// The logs that were read, as JSON; only with `captureLogs: Full`
    Logs,
}

impl Output {
    fn file(self) -> &'static str {
        match self {
            Output::Markdown => publish::MARKDOWN,
            Output::Json => publish::JSON,
            Output::Logs => publish::LOGS,
        }
    }
}

impl Args {
    /// Reads the report and prints it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        telemetry::install_crypto();
        let name = session_name(&self.session)?.to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let text = runtime.context("failed to start the runtime")?.block_on(self.read(&name))?;
        super::print(&String::from_utf8_lossy(&text))
    }

    async fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let config = self.config().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("failed to set up the connection to the API server")?;
        let api: Api<DebugSession> = Api::namespaced(client.clone(), &namespace);
        let session =
            api.get(name).await.with_context(|| format!("failed to read DebugSession {namespace}/{name}"))?;
        Ok(fetch(&client, &session, self.output.file()).await?)
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await.context(
                "there is no cluster to ask: set $KUBECONFIG or name one with --kubeconfig and --context",
            )?,
        };
        Ok(config)
    }
}

/// The name in what people write for a session.
fn session_name(text: &str) -> anyhow::Result<&str> {
    match text.split_once('/') {
        None => Ok(text),
        Some((
            "dbg"
            | "debugsession"
            | "debugsessions"
            | "debugsession.meshscope.dev"
            | "debugsessions.meshscope.dev",
            name,
        )) if !name.is_empty() => Ok(name),
        Some(_) => anyhow::bail!("{text:?} names no session: write dbg/NAME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_as_kubectl_does() {
        for text in ["a", "dbg/a", "debugsession/a", "debugsessions.meshscope.dev/a"] {
            assert_eq!(session_name(text).unwrap(), "a", "{text}");
        }
        assert!(session_name("pod/a").is_err() && session_name("dbg/").is_err());
    }
}
