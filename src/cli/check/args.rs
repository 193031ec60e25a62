//! The command line of `ssefs check`. Secrets have no place in it.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::ManyFilesArgs;
use crate::cli::unlock::KeyOrigin;

/// `ssefs check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    #[command(flatten)]
    pub key: VolumeKeyArgs,

    /// Read headers and entries alone, and no data
    #[arg(long, conflicts_with_all = ["repair", "salvage"])]
    pub headers_only: bool,

    /// Recover files that a crash has left, and restore what can be proved; the volume must not
    /// be mounted
    #[arg(long)]
    pub repair: bool,

    /// Copy what can be read of each damaged file, IN PLAIN, to this new or empty directory;
    /// what is lost becomes a hole
    #[arg(long, value_name = "DIR")]
    pub salvage: Option<PathBuf>,

    #[command(flatten)]
    pub many_files: ManyFilesArgs,

    /// The backing directory, mounted or not
    #[arg(value_name = "BACKING")]
    pub backing: PathBuf,

    /// Only these files and directories, as paths in the backing directory [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// The supplied key of a volume.
#[derive(Debug, Args)]
#[group(id = "volume_key_source", multiple = false)]
pub struct VolumeKeyArgs {
    /// File with the supplied key of the volume; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Number of an open file descriptor to read that key from
    #[arg(long, value_name = "N")]
    pub key_fd: Option<i32>,

    /// Ask for the passphrase of the volume
    #[arg(long)]
    pub passphrase: bool,
}

impl VolumeKeyArgs {
    /// Where the supplied key comes from, if one is given.
    pub fn origin(&self) -> Option<KeyOrigin> {
        match (&self.key_file, self.key_fd) {
            (Some(path), _) => Some(KeyOrigin::File(path.clone())),
            (None, Some(number)) => Some(KeyOrigin::Descriptor(number)),
            (None, None) => self.passphrase.then_some(KeyOrigin::Passphrase),
        }
    }
}

const EXAMPLES: &str = "\
Without --repair nothing is changed. The files that --salvage writes hold PLAINTEXT: choose a \
place that only you can read.

Exit codes: 0 all is well, 14 damage was found, 15 all that was found is repaired, 16 not \
everything could be looked at.

Examples:
  ssefs check /srv/backing                           everything
  ssefs check --headers-only --json /srv/backing     quickly, for a program
  ssefs check /srv/backing projects/2024             one directory
  ssefs check --repair --salvage /root/saved /srv/backing";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    fn parse(line: &str) -> Result<CheckArgs, clap::Error> {
        Line::try_parse_from(format!("check {line}").split_whitespace()).map(|line| line.args)
    }

    #[test]
    fn paths_follow_the_backing_directory() {
        let args = parse("--key-fd 3 --json b d/e f").unwrap();
        assert_eq!((args.backing, args.paths), ("b".into(), vec!["d/e".into(), "f".into()]));
        assert_eq!(args.key.origin(), Some(KeyOrigin::Descriptor(3)));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "",
            "--headers-only --repair b",
            "--headers-only --salvage d b",
            "--key-fd 3 --passphrase b",
            "--jobs 0 b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
