//! A port of a pod through the API server: one WebSocket for each pod, and plain HTTP in it.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Request;
use http::header::{HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Portforwarder;
use kube::client::UpgradeConnectionError;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{AdminAnswers, AdminError, AdminFile, AdminRequest, AdminSource, Limits};
use crate::collect::kubernetes::client::USER_AGENT_NAME;
use crate::collect::kubernetes::reader::ReadError;

/// Opens ports with the API server's `portforward`.
pub struct PortForward {
    client: Client,
}

impl PortForward {
    /// Through this client, with its rights.
    pub fn new(client: Client) -> Self {
        PortForward { client }
    }
}

/// Ends the port-forward with the exchange, however that ends.
struct Open(Portforwarder);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AdminSource for PortForward {
    fn ask<'a>(
        &'a self,
        request: &'a AdminRequest,
        limits: Limits,
    ) -> BoxFuture<'a, Result<AdminAnswers, AdminError>> {
        Box::pin(async move {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &request.namespace);
            let mut open = Open(pods.portforward(&request.pod, &[request.port]).await.map_err(refused)?);
            let stream = open.0.take_stream(request.port).ok_or(AdminError::NotFound)?;
            exchange(stream, &request.files, limits).await
        })
    }
}

fn refused(error: kube::Error) -> AdminError {
    let code = match &error {
        kube::Error::Api(status) => status.code,
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => status.as_u16(),
        _ => 0,
    };
    match code {
        401 | 403 => AdminError::Forbidden,
        404 => AdminError::NotFound,
        _ => AdminError::Unreachable(error.into()),
    }
}

/// Asks for each file in turn over one connection. Errors: nobody speaks HTTP there at all.
async fn exchange<S>(stream: S, files: &[AdminFile], limits: Limits) -> Result<AdminAnswers, AdminError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut answers: AdminAnswers = vec![];
    // A little before the whole exchange is given up: what came by then is kept.
    let until = Instant::now() + limits.deadline.mul_f64(0.9);
    for file in files {
        let asked = tokio::time::timeout_at(until, get(&mut sender, file.path, limits.bytes)).await;
        let answer = asked.unwrap_or(Err(AdminError::Run(ReadError::TimedOut)));
        // Whatever is left of an answer that was too large or too slow is in the way of the next one.
        let last =
            matches!(answer, Err(AdminError::Broken(_) | AdminError::TooLarge(_) | AdminError::Run(_)));
        match answer {
            Err(AdminError::Broken(error)) if answers.is_empty() => return Err(AdminError::Broken(error)),
            answer => answers.push((*file, answer)),
        }
        if last {
            break;
        }
    }
    Ok(answers)
}

async fn get(sender: &mut SendRequest<Empty<Bytes>>, path: &str, cap: usize) -> Result<Vec<u8>, AdminError> {
    sender.ready().await.map_err(broken)?;
    let request = Request::get(path).header(HOST, "localhost").header(USER_AGENT, USER_AGENT_NAME);
    let request = request.body(Empty::new()).map_err(|error| AdminError::Broken(error.into()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = read(response.into_body(), cap).await?;
    if status.is_success() { Ok(body) } else { Err(AdminError::Status(status.as_u16())) }
}

async fn read(mut body: Incoming, cap: usize) -> Result<Vec<u8>, AdminError> {
    let mut bytes = vec![];
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > cap {
            return Err(AdminError::TooLarge(cap));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn broken(error: hyper::Error) -> AdminError {
    AdminError::Broken(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::{TcpListener, TcpStream};

    const FILES: &[AdminFile] = &[
        AdminFile { name: "a", path: "/a?format=json" },
        AdminFile { name: "none", path: "/none" },
        AdminFile { name: "b", path: "/b" },
    ];

    fn limits(bytes: usize) -> Limits {
        Limits { bytes, deadline: std::time::Duration::from_secs(20) }
    }

    /// An admin port on loopback, and the connections that it has taken.
    async fn admin() -> (TcpStream, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let app = Router::new()
            .route("/a", get(|| async { "first" }))
            .route("/b", get(|| async { "x".repeat(100) }))
            .layer(tower::util::MapRequestLayer::new(move |request: Request<axum::body::Body>| {
                count.fetch_add(1, Ordering::SeqCst);
                request
            }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (TcpStream::connect(address).await.unwrap(), taken)
    }

    #[tokio::test]
    async fn all_files_come_over_one_connection() {
        let (stream, taken) = admin().await;
        let answers = exchange(stream, FILES, limits(1000)).await.unwrap();
        assert_eq!(answers[0].1.as_ref().unwrap(), b"first");
        assert!(matches!(answers[1].1, Err(AdminError::Status(404))));
        assert_eq!(answers[2].1.as_ref().unwrap().len(), 100);
        assert_eq!(taken.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_ends_the_exchange() {
        let (stream, _) = admin().await;
        let answers = exchange(stream, FILES, limits(50)).await.unwrap();
        assert_eq!(answers.len(), 3);
        assert!(matches!(answers[2].1, Err(AdminError::TooLarge(50))));
    }

    #[tokio::test]
    async fn what_came_before_a_silence_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/a", get(|| async { "first" }))
            .route("/none", get(std::future::pending::<&str>));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let stream = TcpStream::connect(address).await.unwrap();
        let short = Limits { bytes: 100, deadline: std::time::Duration::from_millis(300) };
        let answers = exchange(stream, FILES, short).await.unwrap();
        assert_eq!(answers[0].1.as_ref().unwrap(), b"first");
        assert_eq!((answers.len(), answers[1].1.as_ref().unwrap_err().category()), (2, "TimedOut"));
    }

    #[tokio::test]
    async fn a_port_that_speaks_no_http_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 mail ready\r\n").await.unwrap();
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let error = exchange(stream, FILES, limits(50)).await.unwrap_err();
        assert_eq!((error.category(), error.gap_reason()), ("Broken", crate::model::gap::GapReason::Failed));
    }

    #[tokio::test]
    async fn a_refusal_of_the_api_server_is_told_from_a_pod_that_is_gone() {
        use crate::collect::testing::{Answer, server};
        for (code, category) in [(403, "Forbidden"), (404, "NotFound"), (500, "Unreachable")] {
            let source = PortForward::new(server(move |_| Answer::status(code, "no")));
            let request =
                AdminRequest { namespace: "shop".into(), pod: "a".into(), port: 1, files: FILES.to_vec() };
            let limits = Limits { bytes: 1, deadline: std::time::Duration::from_secs(1) };
            let error = source.ask(&request, limits).await.unwrap_err();
            assert_eq!(error.category(), category, "{error:?}");
        }
    }
}
