//! The command line of `ssefs rewrap`. Secrets have no place in it.

use std::path::PathBuf;

use clap::Args;

use super::plan::Selection;
use crate::cli::args::ManyFilesArgs;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::unlock::KeyOrigin;
use crate::format::{KeyId, Mode};

/// `ssefs rewrap`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RewrapArgs {
    /// Only files of this mode or key: managed, supplied, kms, a key id, or alias/NAME
    #[arg(long, value_name = "KEY")]
    pub from: Option<String>,

    /// Where they go: managed, supplied, or kms:KEY with a key id or alias/NAME [default: the
    /// newest version of the key that each file has]
    #[arg(long, value_name = "KEY")]
    pub to: Option<String>,

    #[command(flatten)]
    pub from_key: FromKeyArgs,

    #[command(flatten)]
    pub to_key: ToKeyArgs,

    /// Of a mounted volume, move files also to a key that the mount does not hold: it cannot
    /// open them again until it is mounted anew, with that key
    #[arg(long)]
    pub allow_lockout: bool,

    #[command(flatten)]
    pub many_files: ManyFilesArgs,

    /// The backing directory, mounted or not
    #[arg(value_name = "BACKING")]
    pub backing: PathBuf,
}

/// The supplied key that files have.
#[derive(Debug, Args)]
#[group(id = "from_key_source", multiple = false)]
pub struct FromKeyArgs {
    /// File with the supplied key that files have now; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub from_key_file: Option<PathBuf>,

    /// Number of an open file descriptor to read that key from
    #[arg(long, value_name = "N")]
    pub from_key_fd: Option<i32>,

    /// Ask for the passphrase that files have now
    #[arg(long)]
    pub from_passphrase: bool,
}

/// The supplied key that files are to have.
#[derive(Debug, Args)]
#[group(id = "to_key_source", multiple = false)]
pub struct ToKeyArgs {
    /// File with the supplied key that files are to have; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub to_key_file: Option<PathBuf>,

    /// Number of an open file descriptor to read that key from
    #[arg(long, value_name = "N")]
    pub to_key_fd: Option<i32>,

    /// Ask for the passphrase that files are to have
    #[arg(long)]
    pub to_passphrase: bool,
}

/// Where files go, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To the newest version of the key that each has.
    NewestVersion,
    /// To the managed key of the volume.
    Managed,
    /// To a supplied key.
    Supplied(KeyOrigin),
    /// To a CMK, by its id or alias.
    Kms(String),
}

impl RewrapArgs {
    /// Where the supplied key comes from that files have.
    pub fn old_key_origin(&self) -> Option<KeyOrigin> {
        let FromKeyArgs { from_key_file, from_key_fd, from_passphrase } = &self.from_key;
        origin(from_key_file.as_ref(), *from_key_fd, *from_passphrase)
    }

    /// Which files are meant; an alias is left to who knows aliases.
    pub fn selection(&self, alias: impl Fn(&str) -> Outcome<KeyId>) -> Outcome<Selection> {
        let Some(text) = &self.from else { return Ok(Selection::All) };
        if let Ok(mode) = text.parse::<Mode>() {
            return Ok(Selection::Mode(mode));
        }
        let name = text.strip_prefix("kms:").unwrap_or(text);
        match name {
            "" => Err(usage("--from: names no key")),
            name if name.starts_with("alias/") => alias(name).map(Selection::Key),
            name => Ok(Selection::Key(KeyId(name.to_owned()))),
        }
    }

    /// Where files go.
    pub fn destination(&self) -> Outcome<Destination> {
        let ToKeyArgs { to_key_file, to_key_fd, to_passphrase } = &self.to_key;
        let supplied = origin(to_key_file.as_ref(), *to_key_fd, *to_passphrase);
        if supplied == Some(KeyOrigin::File("-".into())) && supplied == self.old_key_origin() {
            return Err(usage("only one of the two keys can come from standard input"));
        }
        match (self.to.as_deref(), supplied) {
            (None, None) => Ok(Destination::NewestVersion),
            (None | Some("supplied"), Some(origin)) => Ok(Destination::Supplied(origin)),
            (Some("supplied"), None) => Err(usage(
                "--to supplied needs the key: give --to-key-file, --to-key-fd or --to-passphrase",
            )),
            (Some(_), Some(_)) => Err(usage("a supplied key was given for another destination")),
            (Some("managed"), None) => Ok(Destination::Managed),
            (Some(other), None) => match other.strip_prefix("kms:") {
                Some(key) if !key.is_empty() => Ok(Destination::Kms(key.to_owned())),
                _ => Err(usage(&format!(
                    "--to {other}: use managed, supplied, or kms: and a key id or alias/NAME"
                ))),
            },
        }
    }
}

fn origin(file: Option<&PathBuf>, number: Option<i32>, passphrase: bool) -> Option<KeyOrigin> {
    match (file, number) {
        (Some(path), _) => Some(KeyOrigin::File(path.clone())),
        (None, Some(number)) => Some(KeyOrigin::Descriptor(number)),
        (None, None) => passphrase.then_some(KeyOrigin::Passphrase),
    }
}

fn usage(message: &str) -> Failure {
    Failure::new(Exit::Usage, message)
}

const EXAMPLES: &str = "\
Data is not touched: only the wrapped data key in each file's header is replaced. Killed at any \
point, every file opens with its old or its new key; run it again to go on.

Examples:
  ssefs rewrap /srv/backing                       all files to the newest version of their key
  ssefs rewrap --from supplied --from-key-file old --to-key-file new /srv/backing
                                                  from one supplied key to another
  ssefs rewrap --from-key-file old --to managed /srv/backing
                                                  to the key that ssefs keeps
  ssefs rewrap --from alias/2024 --to kms:alias/2025 /srv/backing
                                                  to another key of the KMS";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RewrapArgs,
    }

    fn parse(line: &str) -> Result<RewrapArgs, clap::Error> {
        Line::try_parse_from(format!("rewrap {line} backing").split_whitespace())
            .map(|line| line.args)
    }

    fn destination(line: &str) -> Outcome<Destination> {
        parse(line).unwrap().destination()
    }

    #[test]
    fn destinations() {
        let key = KeyOrigin::File("k".into());
        assert_eq!(destination("").unwrap(), Destination::NewestVersion);
        assert_eq!(destination("--to managed").unwrap(), Destination::Managed);
        let supplied = Destination::Supplied(key);
        assert_eq!(destination("--to-key-file k").unwrap(), supplied);
        assert_eq!(destination("--to supplied --to-key-file k").unwrap(), supplied);
        let kms = Destination::Kms("alias/a".into());
        assert_eq!(destination("--to kms:alias/a").unwrap(), kms);
        for refused in [
            "--to supplied",
            "--to kms",
            "--to kms:",
            "--to else",
            "--to managed --to-key-fd 3",
            "--from-key-file - --to-key-file -",
        ] {
            assert_eq!(destination(refused).unwrap_err().exit, Exit::Usage, "{refused}");
        }
        assert!(parse("--to-key-file k --to-passphrase").is_err());
        assert!(parse("--from-key-fd 3 --from-passphrase").is_err());
        assert!(parse("--jobs 0").is_err());
    }

    #[test]
    fn selections() {
        let alias = |name: &str| Ok(KeyId(format!("id of {name}")));
        let of = |line: &str| parse(line).unwrap().selection(alias).unwrap();
        assert_eq!(of(""), Selection::All);
        assert_eq!(of("--from supplied"), Selection::Mode(Mode::Supplied));
        assert_eq!(of("--from 12-34"), Selection::Key(KeyId("12-34".into())));
        let aliased = Selection::Key(KeyId("id of alias/a".into()));
        assert_eq!(of("--from alias/a"), aliased);
        assert_eq!(of("--from kms:alias/a"), aliased);
    }
}
