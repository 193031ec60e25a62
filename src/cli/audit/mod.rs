//! `ssefs audit`: what the audit log tells, whether it is whole, and reports made of it. Showing
//! and reporting need no key; verifying needs the keystore or the public key.

mod chart;
mod page;
mod report;
mod show;
mod table;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::exit::{Exit, Failure, Outcome};
use crate::keys::Keystore;
use crate::keys::audit::{self, AuditReader, FileFilter, Filter, UtcTime};

/// `ssefs audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Show records
    Show(ShowArgs),
    /// Verify that no record was altered, dropped, reordered or cut
    Verify(VerifyArgs),
    /// Sum up who used which key, when and for which files
    Report(ReportArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    period: PeriodArgs,

    /// Only records about this key: its id, or the alias that it was asked for with
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Only records of this user, by name or number
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// Only records about this file, by its path then, or by its file id
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Only what ended so
    #[arg(long, value_enum)]
    outcome: Option<OutcomeName>,

    /// Only events of this name, such as Decrypt
    #[arg(long, value_name = "NAME")]
    event: Option<String>,

    /// Only the last N of them
    #[arg(long, value_name = "N")]
    last: Option<usize>,

    /// Print the records as they stand in the log, one object of JSON in a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Verify without the keystore: the chain, and the checkpoints signed with this key, a file
    /// like public-key.pem beside the log, from a source that you trust
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,

    /// The log begins after this record, the last of those archived elsewhere: number and hash,
    /// as verifying the archive prints them
    #[arg(long, value_name = "SEQ:HASH", value_parser = parse_link)]
    after: Option<audit::Link>,

    /// DIR holds archived segments: no head is expected, the last record must be a checkpoint
    #[arg(long, requires = "dir")]
    archive: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Where the log is [default: the directory 'audit' in the keystore]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReportArgs {
    #[command(flatten)]
    period: PeriodArgs,

    /// In which form
    #[arg(long, value_enum, default_value = "text")]
    format: ReportFormat,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PeriodArgs {
    /// Not before this time: RFC 3339, a date, or how long ago, such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<UtcTime>,

    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<UtcTime>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutcomeName {
    /// Done
    Success,
    /// Refused by a policy
    Denied,
    /// Refused for another reason
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// Aligned tables
    Text,
    /// One object
    Json,
    /// One page with charts, for itself
    Html,
}

/// The command.
pub fn run(args: &AuditArgs, keystore: Option<&Path>) -> Outcome {
    let keystore = Keystore::locate(keystore);
    match &args.command {
        AuditCommand::Show(args) => show::run(args, &reader(&keystore)?),
        AuditCommand::Verify(args) => verify::run(args, &keystore),
        AuditCommand::Report(args) => report::run(args, &keystore, &reader(&keystore)?),
    }
}

impl ShowArgs {
    fn filter(&self) -> Filter {
        Filter {
            since: self.period.since,
            until: self.period.until,
            key: self.key.clone(),
            user: self.user.clone(),
            file: self.file.as_deref().map(FileFilter::new),
            outcome: self.outcome.map(OutcomeName::outcome),
            event: self.event.clone(),
        }
    }
}

impl OutcomeName {
    fn outcome(self) -> audit::Outcome {
        match self {
            Self::Success => audit::Outcome::Success,
            Self::Denied => audit::Outcome::Denied,
            Self::Error => audit::Outcome::Error,
        }
    }
}

/// The log of a keystore, whose root key is not needed to read it.
fn reader(keystore: &Path) -> Outcome<AuditReader> {
    let dir = keystore.join(audit::DIR_NAME);
    if !dir.is_dir() {
        return Err(no_log(keystore));
    }
    Ok(AuditReader::at(&dir)?)
}

fn no_log(keystore: &Path) -> Failure {
    Failure::new(
        Exit::Keystore,
        format!(
            "{}: no audit log is there: it begins with the first key or mount of mode 'kms'; \
             choose another keystore with --keystore",
            keystore.display()
        ),
    )
}

/// What names of others could do to a terminal is written as an escape instead.
fn visible(text: &str) -> String {
    // Controls, and what changes the direction of text or takes no room.
    let hides = |c: char| {
        let invisible = [0x200b..=0x200f, 0x2028..=0x202e, 0x2060..=0x206f, 0xfeff..=0xfeff];
        c.is_control() || invisible.iter().any(|range| range.contains(&u32::from(c)))
    };
    if !text.contains(hides) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| if hides(c) { format!("\\u{{{:x}}}", u32::from(c)) } else { c.to_string() })
        .collect()
}

/// Reads the text in each of the ways in which arguments are read.
pub(super) fn parse(text: &str) {
    drop((parse_time(text), parse_link(text), visible(text)));
    FileFilter::new(Path::new(text));
}

fn parse_time(text: &str) -> Result<UtcTime, String> {
    UtcTime::parse_loosely(text, UtcTime::now())
        .ok_or_else(|| "give RFC 3339, a date, or how long ago, such as 2h or 7d".to_owned())
}

fn parse_link(text: &str) -> Result<audit::Link, String> {
    let parse = || {
        let (seq, hash) = text.split_once(':')?;
        let hash = data_encoding::HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).ok()?;
        Some(audit::Link { seq: seq.parse().ok()?, hash: hash.try_into().ok()? })
    };
    parse().ok_or_else(|| "give the number and the hash of a record, NUMBER:HASH".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(visible("a \u{1b}[2J\u{202e}b\n"), "a \\u{1b}[2J\\u{202e}b\\u{a}");
        assert_eq!(visible("/übung/数"), "/übung/数");
    }

    #[test]
    fn a_link_is_a_number_and_a_hash() {
        let link = parse_link(&format!("7:{}", "aB".repeat(32))).unwrap();
        assert_eq!((link.seq, link.hash), (7, [0xab; 32]));
        for wrong in ["7", "7:ab", ":", "x:00"] {
            assert!(parse_link(wrong).is_err(), "{wrong}");
        }
    }
}
