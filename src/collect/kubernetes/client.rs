//! The client that collectors use: polite to the API server, and apart from the one that holds the operator's lease.

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::limit::ConcurrencyLimitLayer;

use crate::collect::budget::Budget;

/// How collectors name themselves to the API server, for its audit log and its flow schemas.
pub const USER_AGENT_NAME: &str = concat!("meshscope/", env!("CARGO_PKG_VERSION"), " (collect)");

/// A client for collecting. It has its own connections and its own bound of requests in flight over all runs, so that a
/// heavy run cannot starve the operator's lease; what is busy (429, 503, 504) is asked again as the server says.
///
/// Errors: the configuration holds no usable certificates or credentials.
pub fn connect(mut config: Config, budget: &Budget) -> Result<Client, kube::Error> {
    config.headers.retain(|(name, _)| name != USER_AGENT);
    config.headers.push((USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME)));
    config.connect_timeout = Some(budget.request_deadline);
    let limit = ConcurrencyLimitLayer::new(budget.concurrency.saturating_mul(2).max(1));
    Ok(ClientBuilder::try_from(config)?.with_layer(&limit).build())
}
