//! `ssefs key policy`: getting and putting; trying is in [`super::simulate`].

use std::path::Path;

use serde_json::json;

use super::args::PolicyCommand;
use super::contents::read_bounded;
use super::session::Session;
use super::simulate;
use crate::cli::exit::{Failure, Outcome};
use crate::keys::kms::{ErrorCode, KmsError, Policy};

pub(super) fn run(session: &Session, command: &PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Get(args) => {
            let key_id = session.id_of(&args.key)?;
            let policy = session.kms.key_policy(&session.who, &key_id.0)?;
            let answer = json!({"PolicyName": "default", "Policy": policy.to_json()});
            session.print(answer, || policy.to_json())
        }
        PolicyCommand::Put(args) => {
            let key_id = session.id_of(&args.key.key)?;
            let policy = read_policy(&args.file)?;
            session.kms.put_key_policy(&session.who, &key_id.0, policy, args.force)?;
            session.print(json!({"KeyId": key_id, "PolicyName": "default"}), || {
                format!("key {key_id} has this policy now")
            })
        }
        PolicyCommand::Simulate(args) => simulate::run(session, args),
    }
}

/// Reads a policy from a file, or from standard input for `-`; what is wrong names the file.
pub(super) fn read_policy(path: &Path) -> Outcome<Policy> {
    let bytes = read_bounded(Some(path), Policy::MAX_LEN + 1)?;
    let parsed = match std::str::from_utf8(&bytes) {
        Ok(text) => Policy::parse(text),
        Err(_) => Err(KmsError::new(ErrorCode::MalformedPolicyDocument, "not UTF-8")),
    };
    parsed.map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(failure.exit, format!("{}: {}", path.display(), failure.message))
    })
}
