//! Tests on a real API server: `./test` starts one and says where it is in `MESHSCOPE_TEST_KUBECONFIG`, and where
//! kubectl and helm are in `MESHSCOPE_TEST_TOOLS`. Without them every test here passes without having looked at
//! anything, and one line says so; with `CI=true` that is a failure.

mod support;

mod schema;
mod server;
