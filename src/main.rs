//! The `meshscope` program: the operator and the command line in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshscope::cli::main()
}
