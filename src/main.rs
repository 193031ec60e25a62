//! The `ssefs` program: hands the command line to [`ssefs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ssefs::cli::main()
}
