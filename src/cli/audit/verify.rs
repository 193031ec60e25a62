//! `ssefs audit verify`: one line for each finding, the first first, and an exit code of its own.

use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::{VerifyArgs, no_log, visible};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::keys::audit::{Expectation, MAX_FINDINGS, Trust, Verification, from_pem, verify};
use crate::keys::{Keystore, Passphrase};

/// The command.
pub fn run(args: &VerifyArgs, keystore: &Path) -> Outcome {
    let expectation = Expectation { after: args.after, archive: args.archive };
    let (verification, dir) = match &args.public_key {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(Exit::Key, format!("{}: {error}", path.display())))?;
            let key = from_pem(&text).ok_or_else(|| {
                let problem = "is not the PEM of a public key of Ed25519";
                Failure::new(Exit::Key, format!("{}: {problem}", path.display()))
            })?;
            let dir =
                args.dir.clone().unwrap_or_else(|| keystore.join(crate::keys::audit::DIR_NAME));
            (verify(&Trust::PublicKey(key), Some(&dir), expectation)?, dir)
        }
        None => {
            if !keystore.is_dir() {
                return Err(no_log(keystore));
            }
            let opened = open(keystore)?;
            let dir = args.dir.clone();
            let verification = verify(&Trust::Keystore(&opened), dir.as_deref(), expectation)?;
            (verification, dir.unwrap_or_else(|| keystore.join(crate::keys::audit::DIR_NAME)))
        }
    };
    if args.json {
        output::line(&to_json(&verification).to_string())?;
    } else {
        print(&verification, &dir, args.public_key.is_some())?;
    }
    let Some(first) = verification.findings.first() else { return Ok(()) };
    let message = format!("{}: the audit log is not whole: {first}", dir.display());
    Err(Failure::new(Exit::AuditFinding, visible(&message)))
}

fn open(path: &Path) -> Outcome<Keystore> {
    if Keystore::is_protected(path)? {
        let prompt = format!("Passphrase of the keystore {}: ", path.display());
        return Ok(Keystore::open_protected(path, &Passphrase::prompt(&prompt)?)?);
    }
    Ok(Keystore::open(path)?)
}

fn print(verification: &Verification, dir: &Path, by_public_key: bool) -> Outcome {
    let Verification { records, segments, checkpoints, .. } = verification;
    output::line(&format!(
        "{}: {records} records in {segments} segments, {checkpoints} signed checkpoints",
        dir.display()
    ))?;
    if let (Some(first), Some(last)) = (verification.first_seq, verification.last) {
        output::line(&format!("records {first} to {}", last.seq))?;
        let signed = verification.signed_seq.unwrap_or(0);
        match last.seq.saturating_sub(signed) {
            0 => {}
            unsigned if by_public_key => output::line(&format!(
                "note: the last {unsigned} records are not signed yet: without the keystore only \
                 the chain of hashes and the head speak for them"
            ))?,
            unsigned => output::line(&format!(
                "note: the last {unsigned} records are not signed yet; their MACs were verified"
            ))?,
        }
    }
    for note in &verification.notes {
        output::line(&format!("note: {}", visible(note)))?;
    }
    for finding in &verification.findings {
        output::line(&visible(&finding.to_string()))?;
    }
    if verification.findings.len() == MAX_FINDINGS {
        output::line("there may be more")?;
    }
    if let (true, Some(last)) = (verification.is_clean(), verification.last) {
        let hash = HEXLOWER.encode(&last.hash);
        output::line(&format!("whole; ends with {}:{hash}", last.seq))?;
    }
    Ok(())
}

fn to_json(verification: &Verification) -> serde_json::Value {
    let findings: Vec<_> = verification
        .findings
        .iter()
        .map(|finding| {
            json!({
                "kind": finding.kind.name(),
                "segment": finding.segment,
                "line": finding.line,
                "seq": finding.seq,
                "what": finding.what,
            })
        })
        .collect();
    json!({
        "clean": verification.is_clean(),
        "records": verification.records,
        "segments": verification.segments,
        "checkpoints": verification.checkpoints,
        "firstSeq": verification.first_seq,
        "lastSeq": verification.last.map(|last| last.seq),
        "lastHash": verification.last.map(|last| HEXLOWER.encode(&last.hash)),
        "signedSeq": verification.signed_seq,
        "findings": findings,
        "notes": verification.notes,
    })
}
