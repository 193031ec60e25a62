//! As mount(8) calls it, for `mount -t fuse.ssefs` and `/etc/fstab`: installed as
//! `mount.ssefs` and `mount.fuse.ssefs`, told by its name. Arguments and exit codes are those
//! that mount(8) has for its helpers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure, Outcome};
use super::logging;
use super::mount::{Request, mount};
use super::options::MountOptions;
use super::remount::remount;

/// Whether the program was called by a helper's name.
pub fn is_called_by_mount8(argv0: &OsStr) -> bool {
    let name = Path::new(argv0).file_name().unwrap_or_default();
    name == "mount.ssefs" || name == "mount.fuse.ssefs"
}

/// The command; `arguments` without the program's name.
pub fn run(arguments: Vec<OsString>) -> Outcome {
    let call = Call::parse(arguments)?;
    let options = MountOptions::parse(&call.options)?;
    logging::start(call.verbose, options.log_filter.as_deref());
    if options.remount {
        return remount(&call.target, &call.options, call.fake);
    }
    let request = Request::new(call.source, call.target, options, false, call.verbose)?;
    if call.fake { Ok(()) } else { mount(&request) }
}

/// Reads the arguments and their options, and does nothing.
pub(super) fn parse(arguments: Vec<OsString>) {
    drop(Call::parse(arguments).and_then(|call| MountOptions::parse(&call.options)));
}

/// `SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, see mount(8).
#[derive(Debug, PartialEq, Eq)]
struct Call {
    source: PathBuf,
    target: PathBuf,
    options: Vec<OsString>,
    fake: bool,
    verbose: u8,
}

impl Call {
    fn parse(arguments: Vec<OsString>) -> Outcome<Self> {
        let mut places = Vec::new();
        let mut options = Vec::new();
        let (mut fake, mut verbose) = (false, 0);
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let bytes = argument.as_bytes();
            if bytes.len() < 2 || bytes[0] != b'-' {
                places.push(PathBuf::from(argument));
                continue;
            }
            for (at, &letter) in bytes.iter().enumerate().skip(1) {
                match letter {
                    b'f' => fake = true,
                    b'v' => verbose = 1,
                    // Leave /etc/mtab alone, be lenient: nothing to leave, nothing to be.
                    b'n' | b's' => {}
                    b'o' | b't' | b'N' => {
                        let value = match &bytes[at + 1..] {
                            [] => rest.next().ok_or_else(|| usage("a value is missing"))?,
                            attached => OsStr::from_bytes(attached).to_owned(),
                        };
                        match letter {
                            b'o' => options.push(value),
                            b'N' => return Err(usage("option -N is not supported")),
                            _ => {}
                        }
                        break;
                    }
                    other => return Err(usage(&format!("-{} is not known", char::from(other)))),
                }
            }
        }
        match <[PathBuf; 2]>::try_from(places) {
            Ok([source, target]) => Ok(Self { source, target, options, fake, verbose }),
            Err(_) => Err(usage("a source and a target are needed")),
        }
    }
}

fn usage(problem: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{problem}; usage: mount.ssefs SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE]"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Outcome<Call> {
        Call::parse(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn the_name_tells() {
        for name in ["mount.ssefs", "/sbin/mount.fuse.ssefs"] {
            assert!(is_called_by_mount8(OsStr::new(name)));
        }
        for name in ["ssefs", "/usr/bin/ssefs", "mount", ""] {
            assert!(!is_called_by_mount8(OsStr::new(name)));
        }
    }

    #[test]
    fn a_call_of_mount_8_is_read() {
        let call = parse("/b /m -o rw,mode=managed -t fuse.ssefs").unwrap();
        let expected = Call {
            source: "/b".into(),
            target: "/m".into(),
            options: vec!["rw,mode=managed".into()],
            fake: false,
            verbose: 0,
        };
        assert_eq!(call, expected);
        assert_eq!(parse("-trw /b /m -orw,mode=managed").unwrap(), expected);
        let call = parse("-sfnv /b /m -no ro").unwrap();
        assert!(call.fake && call.verbose == 1);
        assert_eq!(call.options, ["ro"]);
    }

    #[test]
    fn wrong_calls_are_usage() {
        for line in ["/b", "/b /m /x", "/b /m -o", "/b /m -x", "/b /m -N ns"] {
            assert_eq!(parse(line).unwrap_err().exit, Exit::Usage, "{line}");
        }
    }
}
