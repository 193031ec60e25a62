//! What every command stands on: the keystore, opened, its KMS, who asks, and how answers are
//! printed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::args::{AuditChoice, KeyCommandArgs};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::unlock::now;
use crate::format::KeyId;
use crate::fs::rfc_3339;
use crate::keys::audit::{AuditLog, AuditOptions};
use crate::keys::identity::Identity;
use crate::keys::kms::{ErrorCode, KmsError, LocalKms};
use crate::keys::{KeyError, Keystore, Passphrase};

/// A command's access to the KMS.
pub(super) struct Session {
    pub(super) kms: LocalKms,
    pub(super) who: Identity,
    json: bool,
}

impl Session {
    /// Of a keystore, as the arguments want it.
    pub(super) fn new(keystore: Keystore, args: &KeyCommandArgs) -> Outcome<Self> {
        let keystore = Arc::new(keystore);
        let best_effort = args.audit == AuditChoice::BestEffort;
        let options = AuditOptions { best_effort, ..AuditOptions::default() };
        let audit = AuditLog::open(Arc::clone(&keystore), options)?;
        let kms = LocalKms::new(keystore, Arc::new(audit));
        // A keystore that no mount uses has nobody else to rotate its keys in time.
        if let Err(error) = kms.maintain(now()) {
            log::warn!("keys that are due were left as they are: {error}");
        }
        Ok(Self { kms, who: Identity::own(), json: args.json })
    }

    /// Whether JSON is wanted.
    pub(super) fn prints_json(&self) -> bool {
        self.json
    }

    /// The id of a key that is named by id or alias: most requests take the id only, so that an
    /// alias which moves meanwhile cannot change what a command is about.
    pub(super) fn id_of(&self, named: &str) -> Outcome<KeyId> {
        Ok(self.kms.resolve(named)?)
    }

    /// Prints an answer in the form that is wanted.
    pub(super) fn print(&self, json: Value, text: impl FnOnce() -> String) -> Outcome {
        match self.json {
            true => output::line(&json.to_string()),
            false => output::line(text().trim_end()),
        }
    }

    /// Ends the session. All records were written before their answers; what is signed now is
    /// a checkpoint, and without it the command is done all the same.
    pub(super) fn finish(&self) {
        if let Err(error) = self.kms.audit().flush() {
            log::error!("the audit log has no new checkpoint: {error}");
        }
    }
}

/// JSON of an answer, with dates as people and AWS KMS write them.
pub(super) fn dated(answer: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(answer).expect("answers have texts for names");
    write_dates(&mut value);
    value
}

/// A date as text shows it.
pub(super) fn date(unix_seconds: u64) -> String {
    rfc_3339(unix_seconds)
}

fn write_dates(value: &mut Value) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(write_dates),
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_u64().filter(|_| name.ends_with("Date")) {
                    Some(seconds) => *member = rfc_3339(seconds).into(),
                    None => write_dates(member),
                }
            }
        }
        _ => {}
    }
}

/// The encryption context of pairs such as `dept=hr`.
pub(super) fn context(pairs: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut context = BTreeMap::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(usage(format!("context '{pair}': write NAME=VALUE")));
        };
        if context.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(usage(format!("context: '{name}' is given twice")));
        }
    }
    Ok(context)
}

/// A failure of the command line.
pub(super) fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

/// The failure to keep secrets out of core dumps.
pub(super) fn not_hardened(error: io::Error) -> Failure {
    Failure::new(Exit::Other, format!("core dumps cannot be switched off: {error}"))
}

/// Opens the keystore that is there.
pub(super) fn open(keystore: Option<PathBuf>) -> Outcome<Keystore> {
    let path = Keystore::locate(keystore.as_deref());
    if !path.exists() {
        return Err(Failure::new(
            Exit::Keystore,
            format!(
                "{}: there is no keystore yet; 'ssefs key create' makes one, --keystore or \
                 $SSEFS_KEYSTORE names another",
                path.display()
            ),
        ));
    }
    unlock(&path, Keystore::open)
}

/// Opens the keystore, making one where there is none; `protect` asks for the passphrase of a
/// new one.
pub(super) fn open_or_create(keystore: Option<PathBuf>, protect: bool) -> Outcome<Keystore> {
    let path = Keystore::locate(keystore.as_deref());
    if Keystore::is_protected(&path).map_err(keystore_failure)? || !protect {
        return unlock(&path, Keystore::open_or_create);
    }
    if has_entries(&path) {
        return Err(Failure::new(
            Exit::Keystore,
            format!(
                "{}: the keystore is there already and has no passphrase; --passphrase is for a \
                 new one",
                path.display()
            ),
        ));
    }
    let prompt = format!("New passphrase for the keystore {}: ", path.display());
    let made = Passphrase::prompt_new(&prompt)
        .and_then(|passphrase| Keystore::create_protected(&path, &passphrase));
    made.map_err(keystore_failure)
}

/// Opens the keystore at `path`, by `plainly` if no passphrase protects it.
fn unlock(path: &Path, plainly: fn(&Path) -> Result<Keystore, KeyError>) -> Outcome<Keystore> {
    let opened = if Keystore::is_protected(path).map_err(keystore_failure)? {
        let prompt = format!("Passphrase of the keystore {}: ", path.display());
        Passphrase::prompt(&prompt).and_then(|typed| Keystore::open_protected(path, &typed))
    } else {
        plainly(path)
    };
    opened.map_err(keystore_failure)
}

fn keystore_failure(error: KeyError) -> Failure {
    let exit = match &error {
        // A passphrase that is missing or wrong.
        KeyError::Unusable(_) => Exit::Key,
        _ => Exit::Keystore,
    };
    Failure::new(exit, format!("keystore: {error}"))
}

fn has_entries(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let exit = match &error {
            KmsError::Refused { code, .. } => match code {
                ErrorCode::InvalidAliasName
                | ErrorCode::MalformedPolicyDocument
                | ErrorCode::Validation => Exit::Usage,
                ErrorCode::AccessDenied
                | ErrorCode::AlreadyExists
                | ErrorCode::Conflict
                | ErrorCode::Disabled
                | ErrorCode::IncorrectKey
                | ErrorCode::InvalidCiphertext
                | ErrorCode::InvalidGrantId
                | ErrorCode::InvalidState
                | ErrorCode::KeyUnavailable
                | ErrorCode::LimitExceeded
                | ErrorCode::NotFound
                | ErrorCode::UnsupportedOperation => Exit::Key,
            },
            KmsError::Key(_) => match error {
                KmsError::Key(error) => return error.into(),
                refused => return Self::new(Exit::Key, refused),
            },
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_a_context() {
        let of = |pairs: &[&str]| {
            context(&pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>())
        };
        let found = of(&["dept=hr", "query=a=b", "empty="]).unwrap();
        let expected = [("dept", "hr"), ("empty", ""), ("query", "a=b")];
        assert!(found.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
        for wrong in [&["dept"][..], &["=hr"], &[""], &["a=1", "a=1"]] {
            assert_eq!(of(wrong).unwrap_err().exit, Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn dates_are_written_out_at_any_depth() {
        let answer = serde_json::json!({"Keys": [{"CreationDate": 0, "Days": 7, "DeletionDate":
            null}], "Date": {"x": 1}});
        let expected = serde_json::json!({"Keys": [{"CreationDate": "1970-01-01T00:00:00Z",
            "Days": 7, "DeletionDate": null}], "Date": {"x": 1}});
        assert_eq!(dated(&answer), expected);
    }
}
