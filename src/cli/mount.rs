//! `ssefs mount`: looks before it changes anything, goes to the background before it holds any
//! key, and lets go of the terminal once the mount answers.

use std::path::PathBuf;
use std::time::Duration;

use super::args::{ModeName, MountArgs};
use super::checks;
use super::exit::{Exit, Failure, Outcome};
use super::logging;
use super::options::MountOptions;
use super::serve::Daemon;
use super::unlock::{KeyOrigin, UnlockPlan, mode};
use crate::fs::FsOptions;
use crate::fuse::MountPlan;
use crate::keys::Keystore;
use crate::sys::daemon::{self, Outcome as ChildOutcome, Role};
use crate::sys::process;

/// Everything that a mount needs to know, in absolute paths.
#[derive(Debug, Clone)]
pub struct Request {
    /// The volume and its keys.
    pub unlock: UnlockPlan,
    /// The mount.
    pub plan: MountPlan,
    /// The file system between them.
    pub fs: FsOptions,
    /// How long an unusable key may go unnoticed by files that are open.
    pub key_check: Duration,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Show all of the log while there is a terminal.
    pub verbose: bool,
    /// Where a mount in the background logs to, if not to syslog.
    pub log_file: Option<PathBuf>,
}

/// The command.
pub fn run(args: &MountArgs, keystore: Option<PathBuf>, verbose: u8) -> Outcome {
    let mut options = MountOptions::parse(&args.options)?;
    options.mode = args.mode.or(options.mode);
    options.keystore = keystore.or(options.keystore);
    options.kms = options.kms.and_take(&args.kms)?;
    if args.key.key_file.is_some() || args.key.key_fd.is_some() || args.key.passphrase {
        options.key_file = args.key.key_file.clone();
        options.key_fd = args.key.key_fd;
        options.passphrase = args.key.passphrase;
    }
    if options.remount {
        return Err(Failure::new(
            Exit::Usage,
            "option 'remount' belongs to mount(8): 'mount -o remount,ro MOUNTPOINT'",
        ));
    }
    logging::start(verbose, options.log_filter.as_deref());
    mount(&Request::new(
        args.backing.clone(),
        args.mount_point.clone(),
        options,
        args.foreground,
        verbose,
    )?)
}

impl Request {
    /// Checks what can be checked without changing anything.
    pub fn new(
        backing: PathBuf,
        mount_point: PathBuf,
        options: MountOptions,
        foreground: bool,
        verbose: u8,
    ) -> Outcome<Self> {
        let mode = mode(options.mode.unwrap_or(ModeName::Managed));
        let (source, protect_keystore) = key_origin(&options, mode)?;
        let backing = checks::backing(&backing)?;
        let mount_point = checks::mount_point(&mount_point)?;
        checks::apart(&backing, &mount_point)?;
        if !options.nonempty {
            checks::unoccupied(&mount_point)?;
        }
        checks::fuse(options.allow_other)?;
        let checked_by_kernel = options.checked_by_kernel()
            // Then the daemon's rights are not those of who comes in.
            || process::has_unusual_rights().map_err(|error| Failure::new(Exit::Other, error))?;
        let keystore = absolute(Keystore::locate(options.keystore.as_deref()))?;
        let log_file = options.log_file.clone().map(absolute).transpose()?;
        Ok(Self {
            plan: MountPlan {
                mount_point,
                source: options.source.clone().unwrap_or_else(|| backing.clone().into()),
                subtype: "ssefs".to_owned(),
                allow_other: options.allow_other,
                checked_by_kernel,
                flags: options.flags(),
                threads: options.threads,
                transport: options.transport,
                stand_aside: options.stand_aside,
            },
            fs: FsOptions {
                read_only: options.read_only,
                writeback: options.writeback && !options.read_only,
                checked_by_kernel,
                acl: options.acl,
                ttl: options.ttl,
                read_ahead_kib: options.read_ahead_kib,
                idle_files: idle_files(&options),
                idle_age: options.cache_ttl,
            },
            unlock: UnlockPlan {
                backing,
                mode,
                source,
                keystore,
                protect_keystore,
                rotation_days: options.rotation_days,
                kms: options.kms,
                cache_entries: options.cache_entries,
                cache_ttl: options.cache_ttl,
                read_only: options.read_only,
                durability: options.durability,
            },
            key_check: options.key_check,
            foreground,
            verbose: verbose > 0,
            log_file,
        })
    }
}

/// Mounts; returns when the mount answers, or in the foreground when it has ended.
pub fn mount(request: &Request) -> Outcome {
    let system = |error: std::io::Error| Failure::new(Exit::Other, error);
    process::forbid_dumps().map_err(system)?;
    if request.foreground {
        return Daemon::start(request)?.serve();
    }
    match daemon::start().map_err(system)? {
        Role::Parent(reader) => match reader.wait().map_err(system)? {
            ChildOutcome::Ready => Ok(()),
            ChildOutcome::Failed { exit_code, message } => {
                Err(Failure::new(Exit::from_code(exit_code).unwrap_or(Exit::Other), message))
            }
            ChildOutcome::Died { cause } => {
                Err(Failure::new(Exit::Other, format!("the daemon ended without a word ({cause})")))
            }
        },
        Role::Child(status) => {
            let started = logging::enter_background(request.log_file.as_deref(), request.verbose)
                .map_err(|error| Failure::new(Exit::Usage, format!("log file {error}")))
                .and_then(|()| Daemon::start(request));
            // The parent is what the user sees: this process says nothing itself.
            match started {
                Ok(daemon) => {
                    logging::leave_terminal();
                    status.ready().map_err(system)?;
                    let ended = daemon.serve();
                    if let Err(failure) = &ended {
                        log::error!("{}", failure.message);
                    }
                    std::process::exit(exit_code(&ended));
                }
                Err(failure) => {
                    status.failed(failure.exit.code(), &failure.message).map_err(system)?;
                    std::process::exit(failure.exit.code().into());
                }
            }
        }
    }
}

/// Files that are closed hold their DEKs for as long as they stay open underneath: no more of them
/// than may be cached, and none where DEKs are not to be remembered for that long.
fn idle_files(options: &MountOptions) -> usize {
    match options.cache_ttl >= IDLE_TIME {
        true => IDLE_FILES.min(options.cache_entries),
        false => 0,
    }
}

fn exit_code(outcome: &Outcome) -> i32 {
    outcome.as_ref().err().map_or(Exit::Ok, |failure| failure.exit).code().into()
}

/// In the modes with a keystore a passphrase is that of the keystore, and a key is one for files
/// that were written in supplied mode.
fn key_origin(
    options: &MountOptions,
    mode: crate::format::Mode,
) -> Outcome<(Option<KeyOrigin>, bool)> {
    let kept = mode != crate::format::Mode::Supplied;
    let given = usize::from(options.key_file.is_some())
        + usize::from(options.key_fd.is_some())
        + usize::from(options.passphrase && !kept);
    if given > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "give one of key_file, key_fd and passphrase, not several",
        ));
    }
    let file = options.key_file.clone().map(|path| match path.as_os_str() {
        dash if dash == "-" => Ok(path.clone()),
        _ => absolute(path.clone()),
    });
    let origin = match (file.transpose()?, options.key_fd) {
        (Some(path), _) => Some(KeyOrigin::File(path)),
        (None, Some(number)) => Some(KeyOrigin::Descriptor(number)),
        (None, None) => (options.passphrase && !kept).then_some(KeyOrigin::Passphrase),
    };
    Ok((origin, options.passphrase && kept))
}

fn absolute(path: PathBuf) -> Outcome<PathBuf> {
    std::path::absolute(&path)
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))
}

/// Enough for what programs open again and again, in some 8 MiB of memory.
const IDLE_FILES: usize = 1024;
/// No longer than this does a file stay open that nobody uses.
const IDLE_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Mode;

    fn origin(list: &str, mode: Mode) -> Outcome<(Option<KeyOrigin>, bool)> {
        key_origin(&MountOptions::parse(&[list]).unwrap(), mode)
    }

    #[test]
    fn a_passphrase_is_the_keystores_or_the_volumes() {
        assert_eq!(origin("passphrase", Mode::Managed).unwrap(), (None, true));
        assert_eq!(
            origin("passphrase", Mode::Supplied).unwrap(),
            (Some(KeyOrigin::Passphrase), false)
        );
    }

    #[test]
    fn several_sources_are_refused() {
        for list in ["key_file=/a,key_fd=3", "key_file=/a,passphrase"] {
            assert_eq!(origin(list, Mode::Supplied).unwrap_err().exit, Exit::Usage);
        }
        assert_eq!(
            origin("key_file=/a,passphrase", Mode::Managed).unwrap(),
            (Some(KeyOrigin::File("/a".into())), true)
        );
    }

    #[test]
    fn relative_key_files_are_made_absolute_but_for_standard_input() {
        let here = std::env::current_dir().unwrap().join("k");
        assert_eq!(origin("key_file=k", Mode::Supplied).unwrap().0, Some(KeyOrigin::File(here)));
        assert_eq!(
            origin("key_file=-", Mode::Supplied).unwrap().0,
            Some(KeyOrigin::File("-".into()))
        );
    }
}
