//! The program: arguments, commands, exit codes, output. Called as `mount.ssefs` or
//! `mount.fuse.ssefs` it is a helper of mount(8).

mod args;
mod audit;
mod backing;
mod check;
mod checks;
mod crew;
mod exit;
mod inspect;
mod key;
mod keys_at_hand;
mod kms_options;
mod logging;
mod mount;
mod mount8;
mod mountinfo;
mod options;
mod output;
#[doc(hidden)]
pub mod parsers;
mod progress;
mod reason;
#[allow(dead_code, reason = "for the deletion of a CMK")]
mod references;
mod rekey;
mod remount;
mod rewrap;
mod serve;
mod stats;
mod unlock;
mod unmount;
mod walk;

pub use exit::Exit;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Outcome;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if mount8::is_called_by_mount8(&name) {
        return conclude(mount8::run(arguments.collect()), Exit::helper_code);
    }
    match Cli::try_parse() {
        Ok(cli) => conclude(run(&cli), Exit::code),
        Err(error) => {
            // Help that nobody reads any more is no failure.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
        }
    }
}

fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Mount(args) => mount::run(args, cli.keystore.clone(), cli.verbose),
        Command::Unmount(args) => {
            logging::start(cli.verbose, None);
            unmount::run(args)
        }
        Command::Inspect(args) => inspect::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Key(args) => {
            logging::start(cli.verbose, None);
            key::run(args, cli.keystore.clone())
        }
        Command::Rekey(args) => {
            logging::start(cli.verbose, None);
            rekey::run(args)
        }
        Command::Rewrap(args) => {
            logging::start(cli.verbose, None);
            rewrap::run(args, cli.keystore.clone())
        }
        Command::Check(args) => {
            // What recovery says of a file, the check says itself.
            let quiet = (cli.verbose == 0).then_some("warn,ssefs::volume=off");
            logging::start(cli.verbose, quiet);
            check::run(args, cli.keystore.clone())
        }
        Command::Audit(args) => audit::run(args, cli.keystore.as_deref()),
    }
}

fn conclude(outcome: Outcome, code: impl Fn(Exit) -> u8) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ssefs: {}", failure.message);
            ExitCode::from(code(failure.exit))
        }
    }
}
