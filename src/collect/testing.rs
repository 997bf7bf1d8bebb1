//! An API server for unit tests: a function from a path to an answer, in memory.

use bytes::Bytes;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// What the server says.
pub(crate) enum Answer {
    /// 200 or another status, and a body.
    Body(u16, Bytes),
    /// Nothing, ever.
    Never,
}

impl Answer {
    /// 200 with a document.
    pub(crate) fn json(value: Value) -> Self {
        Answer::Body(200, value.to_string().into())
    }

    /// 200 with a text.
    pub(crate) fn text(text: &str) -> Self {
        Answer::Body(200, Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A failure, as the API server words it.
    pub(crate) fn status(code: u16, message: &str) -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": ""});
        Answer::Body(code, status.to_string().into())
    }
}

/// A client of a server that answers each path with its query as `answer` says.
pub(crate) fn server(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            match answer(&path) {
                Answer::Body(code, bytes) => Ok::<_, Infallible>(
                    Response::builder().status(code).body(Body::from(bytes.to_vec())).unwrap(),
                ),
                Answer::Never => std::future::pending().await,
            }
        }
    });
    Client::new(service, "default")
}
