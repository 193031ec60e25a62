//! The table of mounts, as `/proc/self/mountinfo` gives it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Device number of the file system, as major and minor.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of this mount, as `rw,nosuid`.
    pub options: String,
    /// Type, as `fuse.ssefs`.
    pub kind: String,
    /// Source: for ssefs the backing directory.
    pub source: OsString,
}

impl Mount {
    /// Whether it is one of ours.
    pub fn is_ssefs(&self) -> bool {
        self.kind == KIND
    }
}

/// All mounts; where several are stacked at a path, the one that is seen comes last.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// The mount that is seen at exactly `path`, which is absolute and without symlinks.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.mount_point == path))
}

/// `None` for an empty line.
pub(super) fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = text(fields.nth(2)?);
    let (major, minor) = device.split_once(':')?;
    let mount_point = unescaped(fields.nth(1)?);
    let options = text(fields.next()?);
    // Optional fields follow, ended by a lone hyphen.
    fields.find(|field| *field == b"-")?;
    let kind = text(fields.next()?);
    let source = unescaped(fields.next()?);
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mount_point: PathBuf::from(mount_point),
        options,
        kind,
        source,
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(escaped) => {
                plain.push(escaped);
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

/// What an ssefs mount is called in the table of mounts.
const KIND: &str = "fuse.ssefs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_and_unescaped() {
        let line =
            br"73 28 0:48 / /mnt/a\040b rw,nosuid shared:1 - fuse.ssefs /d\134x\012 rw,user_id=0";
        assert_eq!(
            parse(line).unwrap(),
            Mount {
                device: (0, 48),
                mount_point: PathBuf::from("/mnt/a b"),
                options: "rw,nosuid".to_owned(),
                kind: "fuse.ssefs".to_owned(),
                source: "/d\\x\n".into(),
            }
        );
    }

    #[test]
    fn a_line_without_optional_fields_and_a_broken_one() {
        let line = b"1 1 0:2 / / rw - tmpfs none rw";
        assert_eq!(parse(line).unwrap().kind, "tmpfs");
        for broken in [&b""[..], b"1 1 0:2 / / rw", b"1 1 x / / rw - a b c"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn a_mount_is_found() {
        assert!(mounted_at(Path::new("/proc")).unwrap().is_some());
        assert!(mounted_at(Path::new("/no such mount")).unwrap().is_none());
    }
}
