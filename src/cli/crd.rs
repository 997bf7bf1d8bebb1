//! `meshscope crd`: the custom resource definitions.

use std::process::ExitCode;

use super::Internal;
use crate::api::manifest;

/// Print the custom resource definitions, ready for `kubectl apply --server-side -f -`
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Prints them as YAML.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::print(&manifest::crd_yaml().map_err(|error| Internal(error.to_string()))?)
    }
}
