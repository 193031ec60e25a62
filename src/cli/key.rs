//! `ssefs key`: customer master keys on the command line. Each command is one or a few requests
//! to the local KMS, under the rights of the user who runs it; what it prints is text for people
//! or, with `--json`, what AWS KMS would answer.

mod alias;
pub mod args;
mod contents;
mod cryptography;
mod deletion;
mod grant;
mod last_used;
mod manage;
mod policy;
mod rotation;
mod session;
mod simulate;
mod table;

use std::path::PathBuf;

use super::exit::Outcome;
use args::{KeyCommand, KeyCommandArgs};
use session::Session;

/// The command.
pub fn run(args: &KeyCommandArgs, keystore: Option<PathBuf>) -> Outcome {
    crate::sys::process::forbid_dumps().map_err(session::not_hardened)?;
    let keystore = match &args.command {
        KeyCommand::Create(create) => session::open_or_create(keystore, create.passphrase)?,
        _ => session::open(keystore)?,
    };
    let session = Session::new(keystore, args)?;
    match &args.command {
        KeyCommand::Create(args) => manage::create(&session, args),
        KeyCommand::List => manage::list(&session),
        KeyCommand::Describe(args) => manage::describe(&session, args),
        KeyCommand::UpdateDescription(args) => manage::update_description(&session, args),
        KeyCommand::Enable(args) => manage::enable(&session, args),
        KeyCommand::Disable(args) => manage::disable(&session, args),
        KeyCommand::Rotate(args) => rotation::rotate(&session, args),
        KeyCommand::Rotation(args) => rotation::run(&session, args),
        KeyCommand::ScheduleDeletion(args) => deletion::schedule(&session, args),
        KeyCommand::CancelDeletion(args) => deletion::cancel(&session, args),
        KeyCommand::Alias(command) => alias::run(&session, command),
        KeyCommand::Policy(command) => policy::run(&session, command),
        KeyCommand::Grant(command) => grant::run(&session, command),
        KeyCommand::Import(args) => rotation::import(&session, args),
        KeyCommand::LastUsed(args) => last_used::run(&session, args),
        KeyCommand::Encrypt(args) => cryptography::encrypt(&session, args),
        KeyCommand::Decrypt(args) => cryptography::decrypt(&session, args),
        KeyCommand::GenerateDataKey(args) => cryptography::generate_data_key(&session, args),
        KeyCommand::ReEncrypt(args) => cryptography::re_encrypt(&session, args),
    }?;
    session.finish();
    Ok(())
}
