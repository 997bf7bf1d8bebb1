//! The proxies of a bundle as a source, so that a replayed incident can be investigated as a live one: a port-forward over
//! the replay would carry the same bytes through more code.

use futures::future::BoxFuture;

use super::{AdminAnswers, AdminError, AdminFile, AdminRequest, AdminSource, Limits};
use crate::collect::material::{ControlPlaneFile, ProxyFile};

/// The answers that a bundle holds.
#[derive(Debug, Clone, Default)]
pub struct RecordedProxies {
    proxies: Vec<ProxyFile>,
    control_plane: Vec<ControlPlaneFile>,
}

impl RecordedProxies {
    /// A source that answers from these files.
    pub fn new(proxies: Vec<ProxyFile>, control_plane: Vec<ControlPlaneFile>) -> Self {
        RecordedProxies { proxies, control_plane }
    }

    /// Whether there is nothing to answer from: then there is no source.
    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty() && self.control_plane.is_empty()
    }

    fn find(&self, request: &AdminRequest, file: &AdminFile) -> Option<Vec<u8>> {
        let proxy = self.proxies.iter().find(|known| {
            known.namespace == request.namespace && known.pod == request.pod && known.file == file.name
        });
        // A bundle names the control plane's pod without its namespace.
        let control_plane =
            || self.control_plane.iter().find(|known| known.pod == request.pod && known.file == file.name);
        match proxy {
            Some(proxy) => Some(proxy.bytes.clone()),
            None => control_plane().and_then(|known| serde_json::to_vec(&known.body).ok()),
        }
    }
}

impl AdminSource for RecordedProxies {
    fn ask<'a>(
        &'a self,
        request: &'a AdminRequest,
        _: Limits,
    ) -> BoxFuture<'a, Result<AdminAnswers, AdminError>> {
        Box::pin(async move {
            let found = request.files.iter().filter_map(|file| Some((*file, Ok(self.find(request, file)?))));
            let answers: AdminAnswers = found.collect();
            if answers.is_empty() { Err(AdminError::NotFound) } else { Ok(answers) }
        })
    }
}
