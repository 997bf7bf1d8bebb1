//! The operator's configuration file: YAML, every field optional, no field unknown.
//!
//! Data sources are named here and nowhere else: a session names one, and never a URL, a header or a token.

use serde::{Deserialize, Deserializer, de};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::v1alpha1::common::Period;
use crate::telemetry::LogFormat;

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The longest window that collecting takes: events are kept for an hour and logs for about a day.
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// The configuration of the operator.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Namespaces whose sessions are served; empty means all.
    pub watch_namespaces: Vec<String>,
    /// Data sources by name.
    pub sources: Sources,
    /// Bounds.
    pub limits: Limits,
    /// Which of several replicas works.
    pub leader_election: LeaderElection,
    /// Health and metrics over HTTP.
    pub server: Server,
    /// The log.
    pub logging: Logging,
}

/// Data sources by name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sources {
    /// Prometheus and what speaks like it. `spec.collect.metricsSourceRef.name` picks one; `default` is taken where a
    /// session names none.
    pub metrics: Vec<MetricsSource>,
    /// Admin ports of proxies.
    pub proxies: ProxiesSource,
}

/// Admin ports of proxies, which listen on localhost only and are reached by port-forward.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxiesSource {
    /// Namespaces in which they may be opened; `*` is wherever the operator looks, and none is nowhere.
    pub namespaces: Vec<String>,
}

impl ProxiesSource {
    /// Whether they may be opened anywhere.
    pub fn enabled(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// The namespaces by name; `None` is everywhere.
    pub fn named(&self) -> Option<BTreeSet<String>> {
        let everywhere = self.namespaces.iter().any(|namespace| namespace == "*");
        (!everywhere).then(|| self.namespaces.iter().cloned().collect())
    }
}

/// A Prometheus-compatible backend.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsSource {
    /// The name that sessions use.
    pub name: String,
    /// Its base URL, such as `http://prometheus.monitoring:9090`.
    pub url: String,
    /// A file with a bearer token, read again for every run.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// A file with the certificates (PEM) to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The tenant of Mimir or Cortex: the header `X-Scope-OrgID`.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Labels that every series must have, such as `cluster` where the backend holds several clusters.
    #[serde(default)]
    pub matchers: BTreeMap<String, String>,
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// The longest window of a session; a longer one is cut to its newest part.
    #[serde(deserialize_with = "period")]
    pub max_window: Duration,
    /// Runs at the same time.
    pub concurrent_runs: usize,
    /// Of these, runs of sessions of one namespace: one team cannot take every place.
    pub concurrent_runs_per_namespace: usize,
    /// Time between two writes of a run's progress.
    #[serde(deserialize_with = "period")]
    pub progress_interval: Duration,
    /// How long a stopping operator waits for its runs to say where they stopped. Less than the pod's
    /// `terminationGracePeriodSeconds`.
    #[serde(deserialize_with = "period")]
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_window: Duration::from_secs(24 * 3600),
            concurrent_runs: 4,
            concurrent_runs_per_namespace: 2,
            progress_interval: Duration::from_secs(2),
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// Which of several replicas works.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LeaderElection {
    /// Whether there is more than one replica to choose from.
    pub enabled: bool,
    /// The name of the Lease.
    pub lease_name: String,
    /// The Lease's namespace; empty means the operator's own.
    pub namespace: String,
    /// Without a renewal for this long, another replica takes over.
    #[serde(deserialize_with = "period")]
    pub lease_duration: Duration,
}

impl Default for LeaderElection {
    fn default() -> Self {
        LeaderElection {
            enabled: true,
            lease_name: "meshscope".to_owned(),
            namespace: String::new(),
            lease_duration: Duration::from_secs(15),
        }
    }
}

/// Health and metrics over HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Server {
    /// Where to listen.
    pub listen: SocketAddr,
}

impl Default for Server {
    fn default() -> Self {
        Server { listen: SocketAddr::from(([0, 0, 0, 0], 8080)) }
    }
}

/// The log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,meshscope=debug`. Read again while the
    /// operator runs.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Logging { level: "info".to_owned(), format: LogFormat::default() }
    }
}

fn period<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let period = Period::deserialize(deserializer)?;
    if period.as_secs() == 0 { Err(de::Error::custom("must be longer than 0s")) } else { Ok(period.into()) }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("failed to read the configuration file {path}: it is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// Its path.
        path: PathBuf,
    },
    /// The text is no configuration.
    #[error("failed to understand the configuration: {0}")]
    Syntax(String),
    /// A value that fits its type and means nothing.
    #[error("failed to understand the configuration: {field}: {problem}")]
    Value {
        /// The field.
        field: String,
        /// What is wrong with it, and what to write.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Where it cannot be read, is no YAML, has an unknown field, or a value that means nothing.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        Config::parse(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Reads and checks the text of a configuration. An empty text is the default configuration.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Option<Config> =
            serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let config = config.unwrap_or_default();
        config.check()?;
        Ok(config)
    }

    /// The metrics source of this name.
    pub fn metrics_source(&self, name: &str) -> Option<&MetricsSource> {
        self.sources.metrics.iter().find(|source| source.name == name)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong =
            |field: &str, problem: String| Err(ConfigError::Value { field: field.to_owned(), problem });
        let mut names = BTreeSet::new();
        for source in &self.sources.metrics {
            if source.name.is_empty() || source.name.len() > 63 {
                return wrong("sources.metrics[].name", "write 1 to 63 characters".to_owned());
            }
            if !names.insert(&source.name) {
                return wrong("sources.metrics[].name", format!("{:?} is there twice", source.name));
            }
            let label = |name: &String| {
                let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
                first && name.len() <= 63 && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
            };
            if let Some(bad) = source.matchers.keys().find(|name| !label(name)) {
                return wrong("sources.metrics[].matchers", format!("{bad:?} is no name of a label"));
            }
            if source.tenant.as_ref().is_some_and(|tenant| http::HeaderValue::from_str(tenant).is_err()) {
                return wrong("sources.metrics[].tenant", "holds characters that no header takes".to_owned());
            }
            match source.url.parse::<http::Uri>() {
                Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() => {
                    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
                        return wrong(
                            "sources.metrics[].url",
                            "holds a user or password; put a token into a Secret and name it in bearerTokenFile"
                                .to_owned(),
                        );
                    }
                }
                _ => {
                    return wrong(
                        "sources.metrics[].url",
                        format!("of {:?} must be http://host[:port][/path] or https://…", source.name),
                    );
                }
            }
        }
        if self.limits.max_window > LONGEST_WINDOW {
            return wrong("limits.maxWindow", "must be 24h or shorter".to_owned());
        }
        for (field, value) in [
            ("limits.concurrentRuns", self.limits.concurrent_runs),
            ("limits.concurrentRunsPerNamespace", self.limits.concurrent_runs_per_namespace),
        ] {
            if !(1..=1000).contains(&value) {
                return wrong(field, "must lie between 1 and 1000".to_owned());
            }
        }
        if self.leader_election.lease_duration < Duration::from_secs(5) {
            return wrong("leaderElection.leaseDuration", "must be 5s or longer".to_owned());
        }
        if self.leader_election.lease_name.is_empty() {
            return wrong("leaderElection.leaseName", "must not be empty".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
        assert_eq!(Config::parse("# nothing\n").unwrap(), Config::default());
    }

    #[test]
    fn everything_can_be_set() {
        let config = Config::parse(
            "watchNamespaces: [shop]
sources:
  metrics:
    - name: default
      url: https://prometheus.monitoring:9090
      bearerTokenFile: /etc/meshscope/token
      tenant: team-a
      matchers: {cluster: prod-eu}
  proxies: {namespaces: [shop]}
limits: {maxWindow: 6h, concurrentRuns: 8, progressInterval: 1s}
leaderElection: {enabled: false}
server: {listen: '127.0.0.1:9000'}
logging: {level: 'info,meshscope=debug', format: console}
",
        )
        .unwrap();
        assert_eq!(config.limits.max_window, Duration::from_secs(6 * 3600));
        assert_eq!(config.limits.concurrent_runs, 8);
        assert_eq!(config.limits.concurrent_runs_per_namespace, 2);
        assert!(config.metrics_source("default").is_some() && config.metrics_source("other").is_none());
        assert_eq!(config.logging.format, LogFormat::Console);
        assert_eq!(config.sources.proxies.named(), Some(["shop".to_owned()].into()));
        let everywhere =
            Config::parse("sources: {proxies: {namespaces: [shop, '*']}}").unwrap().sources.proxies;
        assert!(everywhere.enabled() && everywhere.named().is_none());
        assert!(!Config::default().sources.proxies.enabled());
    }

    #[test]
    fn mistakes_are_told_with_their_field() {
        for (text, words) in [
            ("limit: {}", "limit"),
            ("limits: {maxWindow: 1d}", "1h30m"),
            ("limits: {maxWindow: 0s}", "longer than 0s"),
            ("limits: {maxWindow: 48h}", "24h or shorter"),
            ("limits: {concurrentRuns: 0}", "limits.concurrentRuns"),
            ("sources: {metrics: [{name: a, url: 'file:///etc/passwd'}]}", "sources.metrics[].url"),
            ("sources: {metrics: [{name: a, url: 'http://u:p@h'}]}", "bearerTokenFile"),
            ("sources: {metrics: [{name: a, url: 'http://h'}, {name: a, url: 'http://h'}]}", "twice"),
            ("sources: {metrics: [{name: a, url: 'http://h', matchers: {'a=\"b\"}': c}}]}", "matchers"),
            ("leaderElection: {leaseDuration: 1s}", "leaseDuration"),
            ("logging: {format: xml}", "json"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
