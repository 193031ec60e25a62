//! The command line. Secrets have no place in it: keys come by file, descriptor or prompt.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::check::CheckArgs;
use super::kms_options::KmsArgs;
use super::rekey::RekeyArgs;
use super::rewrap::RewrapArgs;

/// An encrypted file system: a directory is mounted at a second place, and every file
/// written there is stored encrypted in the first, with a key of its own.
#[derive(Debug, Parser)]
#[command(name = "ssefs", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Directory of the keys that ssefs keeps [default: $SSEFS_KEYSTORE, else /var/lib/ssefs
    /// for root and ~/.local/share/ssefs for others]
    #[arg(long, global = true, value_name = "DIR")]
    pub keystore: Option<PathBuf>,

    /// Log more; twice for every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a backing directory, making it a volume if it is empty
    Mount(Box<MountArgs>),
    /// Unmount, and wait until everything is on the backing store
    #[command(visible_alias = "umount")]
    Unmount(UnmountArgs),
    /// Show what the headers of backing files say; needs no key
    Inspect(InspectArgs),
    /// Show counters of a mount: open files, cached keys, operations
    Stats(StatsArgs),
    /// Make and manage the keys of mode 'kms': who may use them, rotation, deletion
    Key(super::key::args::KeyCommandArgs),
    /// Move files to the newest version of their key, or to another key, without touching data
    Rewrap(RewrapArgs),
    /// Give files new data keys and encrypt their data anew
    Rekey(RekeyArgs),
    /// Verify every header and block of a volume, and repair what can be
    Check(CheckArgs),
    /// Show, verify and sum up the audit log of keys
    Audit(super::audit::AuditArgs),
}

/// `ssefs mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Where the master key comes from [default: managed]
    #[arg(long, value_enum)]
    pub mode: Option<ModeName>,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten, next_help_heading = "Keys of the KMS")]
    pub kms: KmsArgs,

    /// Options, separated by commas, as in /etc/fstab; see the manual page
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<std::ffi::OsString>,

    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,

    /// Directory that holds the encrypted files
    #[arg(value_name = "BACKING")]
    pub backing: PathBuf,

    /// Directory where the files are seen in plain
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
}

/// At most one source of a key.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct KeyArgs {
    /// File with the key for mode 'supplied': 32 bytes, or 64 hexadecimal digits; '-' is
    /// standard input
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Number of an open file descriptor to read that key from
    #[arg(long, value_name = "N")]
    pub key_fd: Option<i32>,

    /// Ask for a passphrase: in mode 'supplied' it gives the key, in mode 'managed' it
    /// protects the keystore
    #[arg(long)]
    pub passphrase: bool,
}

/// How to work on many files, and how to tell of it.
#[derive(Debug, Args)]
pub struct ManyFilesArgs {
    /// How many files to work on at once [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ssefs unmount`.
#[derive(Debug, Args)]
pub struct UnmountArgs {
    /// Detach also when it is in use; it ends with its last user, and is not waited for
    #[arg(short, long)]
    pub lazy: bool,

    /// The mount point
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
}

/// `ssefs inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Print JSON, one object for each file
    #[arg(long)]
    pub json: bool,

    /// Files in a backing directory, or in a mount
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `ssefs stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// The mount point
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
}

/// A mode as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// ssefs makes and keeps the key
    Managed,
    /// A key of a key management service
    Kms,
    /// You give the key at every mount
    Supplied,
}

const EXAMPLES: &str = "\
Examples:
  ssefs mount ~/backing ~/private            work in ~/private; ~/backing holds ciphertext
  ssefs unmount ~/private
  ssefs mount --mode supplied --key-file /media/usb/key ~/backing ~/private
  ssefs inspect ~/backing/report.pdf";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    fn mount(line: &str) -> MountArgs {
        match parse(line).unwrap().command {
            Command::Mount(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn two_paths_are_enough() {
        let args = mount("ssefs mount a b");
        assert_eq!((args.mode, args.foreground, args.options.len()), (None, false, 0));
        assert_eq!((args.backing, args.mount_point), ("a".into(), "b".into()));
    }

    #[test]
    fn the_keystore_is_taken_before_and_after_the_subcommand() {
        for line in ["ssefs --keystore k mount a b", "ssefs mount --keystore k a b"] {
            assert_eq!(parse(line).unwrap().keystore, Some("k".into()));
        }
        assert_eq!(parse("ssefs mount a b --keystore k").unwrap().keystore, Some("k".into()));
    }

    #[test]
    fn one_source_of_a_key_at_most() {
        assert_eq!(mount("ssefs mount --key-fd 3 a b").key.key_fd, Some(3));
        assert_eq!(mount("ssefs mount --key-file - a b").key.key_file, Some("-".into()));
        assert!(parse("ssefs mount --key-fd 3 --passphrase a b").is_err());
        assert!(parse("ssefs mount --key-fd 3 --key-file f a b").is_err());
    }

    #[test]
    fn options_are_gathered_and_modes_are_checked() {
        let args = mount("ssefs mount --mode supplied -o ro,acl -o ttl=1 -f a b");
        assert_eq!(args.options, ["ro,acl", "ttl=1"]);
        assert_eq!((args.mode, args.foreground), (Some(ModeName::Supplied), true));
        assert!(parse("ssefs mount --mode aes a b").is_err());
        assert!(parse("ssefs mount a").is_err());
        assert!(parse("ssefs mount a b c").is_err());
    }

    #[test]
    fn both_spellings_of_unmount() {
        for line in ["ssefs unmount --lazy m", "ssefs umount -l m"] {
            assert!(matches!(
                parse(line).unwrap().command,
                Command::Unmount(UnmountArgs { lazy: true, .. })
            ));
        }
    }

    #[test]
    fn wrong_usage_exits_with_the_code_for_it() {
        let usage = i32::from(crate::cli::exit::Exit::Usage.code());
        assert_eq!(parse("ssefs mount a").unwrap_err().exit_code(), usage);
    }
}
