//! The readers of text that others may have written, for the tests with hostile bytes alone:
//! each takes any bytes and does nothing with what it reads.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Parser;

use super::args::Cli;
use super::options::MountOptions;
use super::{audit, mount8, mountinfo};

/// The list after `-o`, from `/etc/fstab` and the table of mounts.
pub fn mount_options(list: &[u8]) {
    if let Ok(options) = MountOptions::parse(&[OsStr::from_bytes(list)]) {
        options.flags();
    }
    MountOptions::of_mount(&String::from_utf8_lossy(list)).flags();
}

/// Arguments of mount(8), each in a line.
pub fn mount8_call(lines: &[u8]) {
    mount8::parse(arguments(lines));
}

/// Arguments of the program, each in a line, its name included.
pub fn command_line(lines: &[u8]) {
    drop(Cli::try_parse_from(arguments(lines)));
}

/// Times and links as `ssefs audit` takes them.
pub fn audit_arguments(text: &str) {
    audit::parse(text);
}

/// A line of the table of mounts.
pub fn mountinfo_line(line: &[u8]) {
    mountinfo::parse(line);
}

fn arguments(lines: &[u8]) -> Vec<OsString> {
    lines.split(|&byte| byte == b'\n').map(|line| OsStr::from_bytes(line).to_owned()).collect()
}
