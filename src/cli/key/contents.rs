//! What commands read and write: bounded input, and output that may be secret. A file is put in
//! place whole and readable by its owner only; no buffer of the standard library, which nobody
//! wipes, holds any of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::crypto::random_array;

/// Reads a file, or standard input for `-` or none. More than `limit` bytes are refused before
/// more are read; the answer is wiped when dropped.
pub(super) fn read_bounded(path: Option<&Path>, limit: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    let (name, source) = match path.filter(|path| *path != Path::new("-")) {
        None => ("standard input".to_owned(), standard_input()),
        Some(path) => (path.display().to_string(), File::open(path)),
    };
    let failed = |error: io::Error| Failure::new(Exit::Other, format!("{name}: {error}"));
    let mut source = source.map_err(failed)?;
    // One byte more tells that there are too many. The buffer never grows, which would leave a
    // copy behind.
    let mut bytes = Zeroizing::new(vec![0; limit + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match source.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if len > limit {
        let message = format!("{name}: has more than {limit} bytes, which is the most");
        return Err(Failure::new(Exit::Usage, message));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Decodes base64, in lines or not.
pub(super) fn decode(text: &[u8]) -> Outcome<Vec<u8>> {
    let compact: Vec<u8> =
        text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64
        .decode(&compact)
        .map_err(|error| Failure::new(Exit::Usage, format!("the input is not base64: {error}")))
}

/// Encodes as one line of base64, in a buffer that is wiped.
pub(super) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(BASE64.encode_len(bytes.len()) + 1));
    BASE64.encode_append(bytes, &mut text);
    text
}

/// Where output goes.
pub(super) enum Destination {
    StandardOutput,
    File(PathBuf),
}

impl Destination {
    /// A file, or standard output for `-` or none.
    pub(super) fn new(path: Option<&Path>) -> Self {
        match path.filter(|path| *path != Path::new("-")) {
            None => Self::StandardOutput,
            Some(path) => Self::File(path.to_owned()),
        }
    }

    /// Whether people would see it.
    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Self::StandardOutput => io::stdout().is_terminal(),
            // A FIFO must not hold it up, nor the terminal become this process's own.
            Self::File(path) => OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)
                .is_ok_and(|file| file.is_terminal()),
        }
    }

    /// Writes `bytes`, all of them or, in a file, none.
    pub(super) fn write(&self, bytes: &[u8]) -> Outcome {
        match self {
            Self::StandardOutput => {
                match unbuffered_output().and_then(|mut out| out.write_all(bytes)) {
                    // The reader has had enough.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
                    written => written.map_err(|error| {
                        Failure::new(Exit::Other, format!("standard output: {error}"))
                    }),
                }
            }
            Self::File(path) => write_file(path, bytes)
                .map_err(|error| Failure::new(Exit::Other, format!("{}: {error}", path.display()))),
        }
    }
}

fn standard_input() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn unbuffered_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Puts a file in place whole; a pipe or device is written to as it is.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return OpenOptions::new().write(true).open(path)?.write_all(bytes);
        }
        // Through symbolic links, so that they stay.
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => path.to_owned(),
    };
    let name = target.file_name().ok_or(ErrorKind::InvalidInput)?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", HEXLOWER.encode(&random_array::<8>())));
    let temporary = directory.join(hidden);
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(directory)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to show.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_bounded() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_bounded(Some(&path), 10).unwrap().as_slice(), [7; 10]);
        let failure = read_bounded(Some(&path), 9).unwrap_err();
        assert!(failure.message.ends_with("f: has more than 9 bytes, which is the most"));
        assert_eq!(failure.exit, Exit::Usage);
        assert!(read_bounded(Some(Path::new("/dev/zero")), 100).is_err());
        assert_eq!(read_bounded(Some(Path::new("/no such")), 1).unwrap_err().exit, Exit::Other);
    }

    #[test]
    fn base64_reads_back_also_in_lines() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = encode(&bytes);
        let lines = text.as_bytes().chunks(64).collect::<Vec<_>>().join(&b'\n');
        assert_eq!(decode(&lines).unwrap(), bytes);
        assert_eq!(decode(b"a?==").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_file_is_replaced_whole_and_closed_to_others() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, link) = (scratch.path().join("f"), scratch.path().join("link"));
        fs::write(&path, "older and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Destination::new(Some(&link)).write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        Destination::new(Some(&scratch.path().join("made"))).write(b"x").unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 3);
        assert!(Destination::new(Some(&scratch.path().join("no/such"))).write(b"x").is_err());
        Destination::new(Some(Path::new("/dev/null"))).write(b"x").unwrap();
    }

    #[test]
    fn a_pipe_with_a_name_is_no_terminal_and_is_written_to_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let destination = Destination::new(Some(&path));
        assert!(!destination.is_terminal());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || read_bounded(Some(&path), 100).unwrap().to_vec()
        });
        destination.write(b"through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), b"through the pipe");
    }
}
