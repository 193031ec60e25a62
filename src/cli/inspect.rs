//! `ssefs inspect`: what a backing file's header says, read without a key and so not verified;
//! for a file in a mount, what the mount answers.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::exit::{Exit, Failure, Outcome};
use super::mountinfo::mounts;
use super::output;
use crate::format::{Suite, WrapAlgorithm};
use crate::fs::rfc_3339;
use crate::store::disk::DiskFile;
use crate::volume::{Description, describe};

/// The command. Goes on after a file that cannot be shown, and ends with that failure.
pub fn run(args: &InspectArgs) -> Outcome {
    let mut failures = output::Failures::default();
    for (index, path) in args.files.iter().enumerate() {
        match inspect(path) {
            Ok(report) if args.json => output::line(&report.to_string())?,
            Ok(report) => {
                if index > 0 {
                    output::line("")?;
                }
                print(&report)?;
            }
            Err(failure) => failures.add(failure),
        }
    }
    failures.outcome()
}

fn inspect(path: &Path) -> Outcome<Value> {
    let refused = |problem: &dyn std::fmt::Display| {
        Failure::new(Exit::Backing, format!("{}: {problem}", path.display()))
    };
    // A FIFO without a writer must not hold it up.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| refused(&error))?;
    let metadata = file.metadata().map_err(|error| refused(&error))?;
    if !metadata.is_file() {
        return Err(refused(&"is not a regular file, and only those are encrypted"));
    }
    if is_in_mount(metadata.dev()) {
        return Err(refused(
            &"is seen through a mount; give the file in the backing directory, or see \
              'getfattr -n user.ssefs.key_id' and its like",
        ));
    }
    let backing_size = metadata.len();
    let described = describe(&backing(file))
        .map_err(|error| Failure::new(Exit::Format, format!("{}: {error}", path.display())))?;
    Ok(match described {
        Some(description) => report(path, &description, backing_size),
        None => json!({
            "file": path.display().to_string(),
            "note": "empty: it has no header and no key yet",
            "size": 0,
            "backing_size": 0,
        }),
    })
}

fn backing(file: File) -> DiskFile {
    DiskFile::from(OwnedFd::from(file))
}

fn report(path: &Path, description: &Description, backing_size: u64) -> Value {
    let envelope = &description.envelope;
    let wrap_algorithm = match envelope.wrap_algorithm {
        WrapAlgorithm::Aes256Gcm => "AES-256-GCM",
        WrapAlgorithm::Provider => "provider",
    };
    let algorithm = match description.suite {
        Suite::Aes256Gcm => "AES-256-GCM",
    };
    json!({
        "file": path.display().to_string(),
        "note": "unverified: read without a key",
        "format_version": description.format_version,
        "algorithm": algorithm,
        "volume_id": description.volume_id.to_string(),
        "file_id": description.file_id.to_string(),
        "mode": envelope.mode.to_string(),
        "provider": envelope.provider,
        "key_id": envelope.key_id.to_string(),
        "key_version": envelope.key_version,
        "wrap_algorithm": wrap_algorithm,
        "wrapped_dek": HEXLOWER.encode(&envelope.wrapped_dek),
        "context": envelope.context,
        "created": rfc_3339(envelope.created),
        "size": description.size,
        "recorded_size": description.recorded_size,
        "backing_size": backing_size,
        "epoch": description.epoch,
        "seal_count": description.seal_count,
        "may_have_holes": description.may_have_holes,
    })
}

/// Whether a device is that of an ssefs mount.
pub(super) fn is_in_mount(device: u64) -> bool {
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    mounts().is_ok_and(|all| all.iter().any(|mount| mount.is_ssefs() && mount.device == number))
}

fn print(report: &Value) -> Outcome {
    for name in SHOWN {
        match &report[name] {
            Value::Null => {}
            Value::Object(pairs) if pairs.is_empty() => {}
            Value::String(text) => output::line(&format!("{name:LABEL_WIDTH$}  {text}"))?,
            other => output::line(&format!("{name:LABEL_WIDTH$}  {other}"))?,
        }
    }
    Ok(())
}

/// In the order in which they are shown.
const SHOWN: [&str; 20] = [
    "file",
    "note",
    "format_version",
    "algorithm",
    "volume_id",
    "file_id",
    "mode",
    "provider",
    "key_id",
    "key_version",
    "wrap_algorithm",
    "wrapped_dek",
    "context",
    "created",
    "size",
    "recorded_size",
    "backing_size",
    "epoch",
    "seal_count",
    "may_have_holes",
];
const LABEL_WIDTH: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_a_foreign_one_and_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(inspect(&path).unwrap()["size"], 0);
        for text in [b"short".to_vec(), vec![7; 10_000]] {
            std::fs::write(&path, text).unwrap();
            let failure = inspect(&path).unwrap_err();
            assert_eq!(failure.exit, Exit::Format);
            assert!(failure.message.contains("file: "), "{}", failure.message);
        }
        assert_eq!(inspect(dir.path()).unwrap_err().exit, Exit::Backing);
        assert_eq!(inspect(Path::new("/no such")).unwrap_err().exit, Exit::Backing);
    }
}
