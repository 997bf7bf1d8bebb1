//! What proxies and their control plane say on ports that only they listen on: Envoy's admin interface and istiod's debug
//! endpoints, through a port-forward. Nothing is changed there: only reading paths are asked for.
//!
//! A port-forward reaches any port of a pod, so it is used only where the administrator's configuration, or a person's own
//! command line, says so.

pub mod choose;
pub mod forward;
pub mod recorded;

use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::kubernetes::reader::{ReadError, Reader};
use crate::model::gap::GapReason;

/// One answer of a port: its name in a bundle, and the path that gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdminFile {
    /// Its name in a bundle.
    pub name: &'static str,
    /// The path with its query.
    pub path: &'static str,
}

const fn file(name: &'static str, path: &'static str) -> AdminFile {
    AdminFile { name, path }
}

/// What is asked of every proxy around the target: small answers.
pub const CHEAP: &[AdminFile] = &[
    file("server_info.json", "/server_info"),
    file("clusters.json", "/clusters?format=json"),
    file("certs.json", "/certs"),
    // Without it a proxy lists some thousand statistics that nobody has touched.
    file("stats.txt", "/stats?usedonly"),
];

/// What is asked of the proxies that a first look implicates.
pub const DEEP: &[AdminFile] =
    &[file("listeners.json", "/listeners?format=json"), file("config_dump.json", "/config_dump")];

/// What is asked of istiod.
pub const CONTROL_PLANE: &[AdminFile] = &[file("syncz.json", "/debug/syncz")];

/// The port of istiod's debug endpoints.
pub const CONTROL_PLANE_PORT: u16 = 15014;

/// One port to ask, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The port in the pod.
    pub port: u16,
    /// What to ask, in this order, over one connection.
    pub files: Vec<AdminFile>,
}

/// What one exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one answer.
    pub bytes: usize,
    /// How long the whole exchange may take.
    pub deadline: Duration,
}

/// Why a port gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The API server refused the port-forward.
    #[error("failed to open the port: the API server refused it")]
    Forbidden,
    /// There is no such pod, or a recording holds nothing of it.
    #[error("failed to open the port: there is no such pod")]
    NotFound,
    /// The port could not be opened.
    #[error("failed to open the port")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody listens there, or it is no HTTP.
    #[error("failed to talk to the port: nobody answers there in HTTP")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than 200.
    #[error("failed to read: the port answered with status {0}")]
    Status(u16),
    /// The answer is larger than an answer may be.
    #[error("failed to read: the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The run itself: its time or its budget is used up, or it was cancelled.
    #[error(transparent)]
    Run(#[from] ReadError),
}

impl AdminError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            AdminError::Forbidden => "Forbidden",
            AdminError::NotFound => "NotFound",
            AdminError::Unreachable(_) => "Unreachable",
            AdminError::Broken(_) => "Broken",
            AdminError::Status(_) => "Status",
            AdminError::TooLarge(_) => "TooLarge",
            AdminError::Run(error) => error.category(),
        }
    }

    /// The reason of the gap that it leaves.
    pub fn gap_reason(&self) -> GapReason {
        match self {
            AdminError::Forbidden => GapReason::Forbidden,
            AdminError::NotFound => GapReason::Absent,
            AdminError::TooLarge(_) => GapReason::Truncated,
            AdminError::Unreachable(_) | AdminError::Broken(_) | AdminError::Status(_) => GapReason::Failed,
            AdminError::Run(error) => error.gap_reason(),
        }
    }
}

/// The answers of one port: each file's bytes, or why there are none.
pub type AdminAnswers = Vec<(AdminFile, Result<Vec<u8>, AdminError>)>;

/// Reaches ports that listen on a pod's own loopback.
pub trait AdminSource: Send + Sync {
    /// Asks one port. Errors: the port could not be opened; where a single file fails, its own answer says so.
    fn ask<'a>(
        &'a self,
        request: &'a AdminRequest,
        limits: Limits,
    ) -> BoxFuture<'a, Result<AdminAnswers, AdminError>>;
}

/// Where ports may be opened, and how.
#[derive(Clone)]
pub struct Proxies {
    /// How.
    pub source: Arc<dyn AdminSource>,
    /// In which namespaces; `None` is everywhere.
    pub namespaces: Option<BTreeSet<String>>,
}

impl Proxies {
    /// Wherever the run looks.
    pub fn everywhere(source: Arc<dyn AdminSource>) -> Self {
        Proxies { source, namespaces: None }
    }

    /// Whether ports of this namespace's pods may be opened.
    pub fn allows(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(namespace))
    }
}

/// Asks several ports, a few at a time. Answers stand in the order of the requests.
pub async fn read(
    source: &dyn AdminSource,
    reader: &Reader,
    requests: Vec<AdminRequest>,
) -> Vec<(AdminRequest, Result<AdminAnswers, AdminError>)> {
    let concurrency = reader.budget().proxy_concurrency.max(1);
    futures::stream::iter(requests)
        .map(|request| async move {
            let answer = ask(source, reader, &request).await;
            (request, answer)
        })
        .buffered(concurrency)
        .collect()
        .await
}

async fn ask(
    source: &dyn AdminSource,
    reader: &Reader,
    request: &AdminRequest,
) -> Result<AdminAnswers, AdminError> {
    let budget = reader.budget();
    let limits = Limits { bytes: budget.proxy_bytes_per_answer, deadline: budget.proxy_deadline };
    // The port-forward itself, and each answer that comes through it.
    let asked = reader.exchange(1 + request.files.len(), limits.deadline, source.ask(request, limits));
    let answers = asked.await??;
    let bytes: usize = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(Vec::len).sum();
    reader.meter().bytes(bytes as u64);
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::budget::{Budget, Meter};
    use crate::collect::testing::{Answer, server};
    use tokio_util::sync::CancellationToken;

    struct Silent;

    impl AdminSource for Silent {
        fn ask<'a>(
            &'a self,
            request: &'a AdminRequest,
            _: Limits,
        ) -> BoxFuture<'a, Result<AdminAnswers, AdminError>> {
            Box::pin(async move {
                if request.pod == "silent" {
                    std::future::pending::<()>().await;
                }
                Ok(request.files.iter().map(|file| (*file, Ok(vec![0; 10]))).collect())
            })
        }
    }

    fn request(pod: &str) -> AdminRequest {
        AdminRequest { namespace: "shop".into(), pod: pod.into(), port: 15000, files: CHEAP.to_vec() }
    }

    #[tokio::test]
    async fn a_silent_proxy_costs_its_own_time_and_everything_is_counted() {
        let budget = Budget { proxy_deadline: Duration::from_millis(20), ..Budget::default() };
        let reader =
            Reader::new(server(|_| Answer::Never), Arc::new(Meter::new(budget)), CancellationToken::new());
        let answers = read(&Silent, &reader, vec![request("silent"), request("a")]).await;
        assert_eq!(answers[0].1.as_ref().unwrap_err().gap_reason(), GapReason::TimedOut);
        assert_eq!(answers[1].1.as_ref().unwrap().len(), CHEAP.len());
        let cost = reader.meter().cost();
        assert_eq!(
            (cost.api_requests, cost.bytes_read),
            (2 * (1 + CHEAP.len() as u64), 10 * CHEAP.len() as u64)
        );
    }

    #[tokio::test]
    async fn ports_are_not_opened_beyond_the_budget() {
        let budget = Budget { api_requests: 3, ..Budget::default() };
        let reader =
            Reader::new(server(|_| Answer::Never), Arc::new(Meter::new(budget)), CancellationToken::new());
        let answers = read(&Silent, &reader, vec![request("a")]).await;
        assert_eq!(answers[0].1.as_ref().unwrap_err().gap_reason(), GapReason::Truncated);
    }

    #[test]
    fn every_file_is_one_that_a_bundle_knows() {
        for file in CHEAP.iter().chain(DEEP) {
            assert!(crate::model::proxy::FILES.contains(&file.name), "{}", file.name);
        }
        assert_eq!(CHEAP.len() + DEEP.len(), crate::model::proxy::FILES.len());
    }
}
