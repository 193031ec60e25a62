//! The options after `-o`, from the command line, mount(8) and `/etc/fstab`. Every option is
//! known or refused; where one is given twice, the last one counts, as mount(8) has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::args::ModeName;
use super::exit::{Exit, Failure, Outcome};
use super::kms_options::{KmsChoices, bad_value, number};
use crate::fs::READ_AHEAD_KIB;
use crate::fuse::{FilesystemFlag, MAX_READ, TransportChoice};
use crate::volume::Durability;

/// What the options ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`
    pub read_only: bool,
    /// `allow_other`
    pub allow_other: bool,
    /// `default_permissions`
    pub default_permissions: bool,
    /// `acl`
    pub acl: bool,
    /// `durability=`
    pub durability: Durability,
    /// `writeback=`
    pub writeback: bool,
    /// `nonempty`
    pub nonempty: bool,
    /// `remount`
    pub remount: bool,
    /// `ttl=`
    pub ttl: Duration,
    /// `read_ahead=`
    pub read_ahead_kib: u32,
    /// `threads=`
    pub threads: usize,
    /// `transport=`
    pub transport: TransportChoice,
    /// `stand_aside=`
    pub stand_aside: bool,
    /// `cache_entries=`
    pub cache_entries: usize,
    /// `cache_ttl=`
    pub cache_ttl: Duration,
    /// `rotation_days=`
    pub rotation_days: u32,
    /// `key_check=`
    pub key_check: Duration,
    /// The options of kms mode.
    pub kms: KmsChoices,
    /// `mode=`
    pub mode: Option<ModeName>,
    /// `keystore=`
    pub keystore: Option<PathBuf>,
    /// `key_file=`
    pub key_file: Option<PathBuf>,
    /// `key_fd=`
    pub key_fd: Option<i32>,
    /// `passphrase`
    pub passphrase: bool,
    /// `log_file=`
    pub log_file: Option<PathBuf>,
    /// `log=`
    pub log_filter: Option<String>,
    /// `fsname=`
    pub source: Option<std::ffi::OsString>,
    nosuid: bool,
    nodev: bool,
    noexec: bool,
    sync: bool,
    dirsync: bool,
    atime: Option<FilesystemFlag>,
    nodiratime: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            default_permissions: false,
            acl: false,
            durability: Durability::Power,
            writeback: true,
            nonempty: false,
            remount: false,
            ttl: Duration::from_secs(60),
            read_ahead_kib: READ_AHEAD_KIB,
            threads: default_threads(),
            transport: TransportChoice::Auto,
            stand_aside: true,
            cache_entries: 16_384,
            cache_ttl: Duration::from_secs(300),
            rotation_days: 90,
            key_check: Duration::from_secs(5),
            kms: KmsChoices::default(),
            mode: None,
            keystore: None,
            key_file: None,
            key_fd: None,
            passphrase: false,
            log_file: None,
            log_filter: None,
            source: None,
            // What FUSE mounts have always had unless asked otherwise.
            nosuid: true,
            nodev: true,
            noexec: false,
            sync: false,
            dirsync: false,
            atime: None,
            nodiratime: false,
        }
    }
}

impl MountOptions {
    /// Reads option lists, each separated by commas; `\,` and `\\` stand for themselves.
    ///
    /// # Errors
    /// The first option that is not known, or whose value is not possible, by its name.
    pub fn parse<T: AsRef<OsStr>>(lists: &[T]) -> Outcome<Self> {
        Self::default().and_parse(lists)
    }

    /// Reads further lists on top of these options, as [`Self::parse`] does.
    pub fn and_parse<T: AsRef<OsStr>>(mut self, lists: &[T]) -> Outcome<Self> {
        for list in lists {
            for item in split(list.as_ref().as_bytes()) {
                self.take(&item)?;
            }
        }
        Ok(self)
    }

    /// The options of a mount that exists, as the table of mounts lists them. There `suid` and
    /// `dev` are what an absent flag means.
    pub fn of_mount(listed: &str) -> Self {
        let mut options = Self { nosuid: false, nodev: false, ..Self::default() };
        for name in listed.split(',') {
            options.take_switch(name);
        }
        options
    }

    /// Whether the kernel checks permissions itself. Where other users come in nobody else could.
    pub fn checked_by_kernel(&self) -> bool {
        self.default_permissions || self.allow_other || self.acl
    }

    /// The flags for the kernel's own layer.
    pub fn flags(&self) -> Vec<FilesystemFlag> {
        let chosen = [
            (self.read_only, FilesystemFlag::ReadOnly),
            (self.nosuid, FilesystemFlag::NoSuid),
            (self.nodev, FilesystemFlag::NoDev),
            (self.noexec, FilesystemFlag::NoExec),
            (self.sync, FilesystemFlag::Sync),
            (self.dirsync, FilesystemFlag::DirSync),
            (self.nodiratime, FilesystemFlag::NoDirAtime),
        ];
        let chosen = chosen.into_iter().filter_map(|(is_set, flag)| is_set.then_some(flag));
        chosen.chain(self.atime).collect()
    }

    fn take(&mut self, item: &[u8]) -> Outcome {
        let (name, value) = match item.iter().position(|&byte| byte == b'=') {
            Some(at) => (&item[..at], Some(&item[at + 1..])),
            None => (item, None),
        };
        let name = std::str::from_utf8(name).map_err(|_| unknown(item))?;
        let known = match value {
            None => self.take_switch(name),
            Some(value) => self.take_value(name, OsStr::from_bytes(value))?,
        };
        if known || is_for_mount_8(name) { Ok(()) } else { Err(unknown(item)) }
    }

    fn take_switch(&mut self, name: &str) -> bool {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "acl" => self.acl = true,
            "noacl" => self.acl = false,
            "nonempty" => self.nonempty = true,
            "remount" => self.remount = true,
            "passphrase" => self.passphrase = true,
            "bucket_key" => self.kms.bucket_key = true,
            "suid" => self.nosuid = false,
            "nosuid" => self.nosuid = true,
            "dev" => self.nodev = false,
            "nodev" => self.nodev = true,
            "exec" => self.noexec = false,
            "noexec" => self.noexec = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "atime" | "relatime" => self.atime = None,
            "noatime" => self.atime = Some(FilesystemFlag::NoAtime),
            "strictatime" => self.atime = Some(FilesystemFlag::StrictAtime),
            "diratime" => self.nodiratime = false,
            "nodiratime" => self.nodiratime = true,
            _ => return false,
        }
        true
    }

    fn take_value(&mut self, name: &str, value: &OsStr) -> Outcome<bool> {
        match name {
            "durability" => self.durability = durability(value)?,
            "writeback" => self.writeback = on_or_off(name, value)?,
            "ttl" => self.ttl = seconds(name, value)?,
            "read_ahead" => {
                let kib = number(name, value, 4..=MAX_READ_AHEAD_KIB)?;
                self.read_ahead_kib = u32::try_from(kib).expect("it is within the range");
            }
            "threads" => self.threads = number(name, value, 1..=MAX_THREADS)? as usize,
            "transport" => self.transport = transport(value)?,
            "stand_aside" => self.stand_aside = on_or_off(name, value)?,
            "cache_entries" => {
                self.cache_entries = number(name, value, 1..=MAX_CACHE_ENTRIES)? as usize;
            }
            "cache_ttl" => self.cache_ttl = seconds(name, value)?,
            "rotation_days" => {
                self.rotation_days = u32::try_from(number(name, value, 0..=MAX_ROTATION_DAYS)?)
                    .expect("bounded by MAX_ROTATION_DAYS");
            }
            "key_check" => {
                let every = number(name, value, 1..=MAX_KEY_CHECK_SECONDS)?;
                self.key_check = Duration::from_secs(every);
            }
            "mode" => self.mode = Some(mode(value)?),
            "keystore" => self.keystore = Some(path(name, value)?),
            "key_file" => self.key_file = Some(path(name, value)?),
            "key_fd" => {
                let raw = number(name, value, 0..=i32::MAX as u64)?;
                self.key_fd = Some(i32::try_from(raw).expect("bounded by i32::MAX"));
            }
            "log_file" => self.log_file = Some(path(name, value)?),
            "log" => self.log_filter = Some(value.to_string_lossy().into_owned()),
            "fsname" => self.source = Some(path(name, value)?.into_os_string()),
            "subtype" if value == "ssefs" => {}
            "subtype" => return Err(bad_value(name, value, "it is always 'ssefs'")),
            // The kernel lists it, and mount(8) gives it back at a remount.
            "max_read" if MAX_READ.strip_prefix("max_read=").is_some_and(|most| value == most) => {}
            "max_read" => return Err(bad_value(name, value, &format!("it is always {MAX_READ}"))),
            _ => return self.kms.take(name, value).map_or(Ok(false), |taken| taken.map(|()| true)),
        }
        Ok(true)
    }
}

/// Options that mount(8) and systemd mean for themselves and pass on all the same, and those
/// that the kernel lists for a mount and mount(8) gives back at a remount.
fn is_for_mount_8(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-") || MOUNT_8.contains(&name)
}

/// Splits at commas that have no backslash before them. Empty items are what a stray comma
/// leaves, and mean nothing.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => items.push(Vec::new()),
            b'\\' if matches!(bytes.peek(), Some(b',' | b'\\')) => {
                items.last_mut().expect("starts with one item").extend(bytes.next());
            }
            byte => items.last_mut().expect("starts with one item").push(byte),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

fn unknown(item: &[u8]) -> Failure {
    let item = String::from_utf8_lossy(item);
    let name = item.split('=').next().unwrap_or_default();
    Failure::new(Exit::Usage, format!("option '{name}' is not known; known are: {KNOWN}"))
}

fn on_or_off(name: &str, value: &OsStr) -> Outcome<bool> {
    match value.to_str() {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(bad_value(name, value, "'on' or 'off' is possible")),
    }
}

fn durability(value: &OsStr) -> Outcome<Durability> {
    match value.to_str() {
        Some("power") => Ok(Durability::Power),
        Some("process") => Ok(Durability::Process),
        _ => Err(bad_value("durability", value, "'power' or 'process' is possible")),
    }
}

fn mode(value: &OsStr) -> Outcome<ModeName> {
    match value.to_str() {
        Some("managed") => Ok(ModeName::Managed),
        Some("kms") => Ok(ModeName::Kms),
        Some("supplied") => Ok(ModeName::Supplied),
        _ => Err(bad_value("mode", value, "'managed', 'kms' or 'supplied' is possible")),
    }
}

fn transport(value: &OsStr) -> Outcome<TransportChoice> {
    match value.to_str() {
        Some("auto") => Ok(TransportChoice::Auto),
        Some("classic") => Ok(TransportChoice::Classic),
        Some("uring") => Ok(TransportChoice::Uring),
        _ => Err(bad_value("transport", value, "'auto', 'classic' or 'uring' is possible")),
    }
}

fn seconds(name: &str, value: &OsStr) -> Outcome<Duration> {
    Ok(Duration::from_secs(number(name, value, 0..=MAX_SECONDS)?))
}

fn path(name: &str, value: &OsStr) -> Outcome<PathBuf> {
    if value.is_empty() {
        return Err(bad_value(name, value, "a path is missing"));
    }
    Ok(PathBuf::from(value))
}

/// Two for each CPU: one waits for the backing store while another encrypts.
fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    (2 * cpus).clamp(4, 16)
}

const MAX_THREADS: u64 = 256;
const MAX_READ_AHEAD_KIB: u64 = 16_384;
const MAX_CACHE_ENTRIES: u64 = 10_000_000;
const MAX_ROTATION_DAYS: u64 = 36_500;
const MAX_KEY_CHECK_SECONDS: u64 = 60;
const MAX_SECONDS: u64 = 86_400 * 365;

const MOUNT_8: [&str; 20] = [
    "_netdev", "auto", "comment", "defaults", "group", "group_id", "helper", "loud", "nofail",
    "noauto", "nogroup", "noowner", "nouser", "nousers", "owner", "silent", "uhelper", "user",
    "user_id", "users",
];

const KNOWN: &str = "ro, rw, mode=, keystore=, key_file=, key_fd=, passphrase, allow_other, \
                     acl, noacl, durability=, writeback=, ttl=, read_ahead=, threads=, \
                     transport=, stand_aside=, cache_entries=, cache_ttl=, rotation_days=, \
                     key_check=, key_id=, bucket_key, bucket_key_ttl=, bucket_key_uses=, \
                     context=, audit=, audit_sync=, audit_level=, audit_segment=, \
                     nonempty, log_file=, log=, fsname=, remount, \
                     default_permissions, suid, nosuid, dev, nodev, exec, noexec, sync, async, \
                     dirsync, atime, noatime, relatime, strictatime, diratime, nodiratime";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Outcome<MountOptions> {
        MountOptions::parse(&[list])
    }

    fn refusal(list: &str) -> String {
        let failure = parse(list).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        failure.message
    }

    #[test]
    fn nothing_gives_the_defaults() {
        for list in ["", ",", ",,,"] {
            assert_eq!(parse(list).unwrap(), MountOptions::default());
        }
        let options = MountOptions::default();
        assert_eq!(options.flags(), [FilesystemFlag::NoSuid, FilesystemFlag::NoDev]);
        assert!((4..=16).contains(&options.threads));
    }

    #[test]
    fn every_value_arrives() {
        let options = parse(
            "ro,allow_other,acl,writeback=off,ttl=5,read_ahead=128,threads=3,transport=uring,\
             stand_aside=off,cache_entries=7,cache_ttl=9,rotation_days=0,mode=supplied,keystore=/k,\
             key_file=/f,log_file=/l,log=debug,fsname=me,nonempty,suid,dev,noexec,sync,\
             dirsync,noatime,nodiratime",
        )
        .unwrap();
        assert!(options.read_only && options.allow_other && options.acl && options.nonempty);
        assert!(!options.writeback && !options.stand_aside);
        assert_eq!((options.ttl, options.read_ahead_kib), (Duration::from_secs(5), 128));
        assert_eq!((options.threads, options.cache_entries, options.rotation_days), (3, 7, 0));
        assert_eq!(options.cache_ttl, Duration::from_secs(9));
        assert_eq!(options.transport, TransportChoice::Uring);
        assert_eq!(options.mode, Some(ModeName::Supplied));
        assert_eq!(options.keystore, Some(PathBuf::from("/k")));
        assert_eq!(options.key_file, Some(PathBuf::from("/f")));
        assert_eq!(options.log_file, Some(PathBuf::from("/l")));
        assert_eq!(options.log_filter.as_deref(), Some("debug"));
        assert_eq!(options.source.as_deref(), Some(OsStr::new("me")));
        assert_eq!(
            options.flags(),
            [
                FilesystemFlag::ReadOnly,
                FilesystemFlag::NoExec,
                FilesystemFlag::Sync,
                FilesystemFlag::DirSync,
                FilesystemFlag::NoDirAtime,
                FilesystemFlag::NoAtime,
            ]
        );
    }

    #[test]
    fn the_last_of_two_counts_also_across_lists() {
        assert!(!parse("ro,rw").unwrap().read_only);
        assert!(MountOptions::parse(&["rw,ttl=1", "ro,ttl=2"]).unwrap().read_only);
        assert_eq!(parse("ttl=1,ttl=2").unwrap().ttl, Duration::from_secs(2));
        assert_eq!(parse("noatime,relatime").unwrap(), MountOptions::default());
    }

    #[test]
    fn an_escaped_comma_belongs_to_the_value() {
        let options = parse(r"key_file=/a\,suid\\,ro").unwrap();
        assert_eq!(options.key_file, Some(PathBuf::from(r"/a,suid\")));
        assert!(options.read_only);
        assert!(options.flags().contains(&FilesystemFlag::NoSuid));
        assert_eq!(parse(r"key_file=/a\b").unwrap().key_file, Some(PathBuf::from(r"/a\b")));
    }

    #[test]
    fn values_keep_equals_signs_and_bytes_that_are_not_utf8() {
        assert_eq!(parse("key_file=/a=b").unwrap().key_file, Some(PathBuf::from("/a=b")));
        let list = OsStr::from_bytes(b"key_file=/\xff");
        let options = MountOptions::parse(&[list]).unwrap();
        assert_eq!(options.key_file.unwrap().as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn an_unknown_option_is_named_and_its_value_is_not_shown() {
        let message = refusal("rw,pasword=hunter2");
        assert!(message.starts_with("option 'pasword' is not known; known are: ro, rw,"));
        assert!(!message.contains("hunter2"));
        for list in ["Ro", "ro=1", "writeback", "ttl", "=", "=x", "fd=3", "rootmode=40000"] {
            assert!(refusal(list).contains("is not known"), "{list}");
        }
        let failure = MountOptions::parse(&[OsStr::from_bytes(b"\xff")]).unwrap_err();
        assert!(failure.message.contains("is not known"));
    }

    #[test]
    fn impossible_values_are_refused() {
        for list in [
            "ttl=",
            "ttl=-1",
            "ttl=+1",
            "ttl=1.5",
            "ttl=99999999999999999999",
            "read_ahead=3",
            "read_ahead=16385",
            "threads=0",
            "threads=257",
            "transport=fast",
            "stand_aside=1",
            "cache_entries=0",
            "key_fd=-1",
            "key_fd=2147483648",
            "durability=none",
            "writeback=yes",
            "mode=aes",
            "key_file=",
            "keystore=",
            "subtype=ext4",
            "max_read=1048576",
        ] {
            assert!(refusal(list).contains(list), "{list}");
        }
    }

    #[test]
    fn what_mount_8_means_for_itself_is_dropped() {
        let list = "_netdev,nofail,noauto,auto,user,users,owner,group,nouser,defaults,\
                    x-systemd.automount,x-systemd.requires=/a,X-mount.mkdir=0700,comment=hello,\
                    user=joe,user_id=0,group_id=0,max_read=131072,relatime";
        assert_eq!(parse(list).unwrap(), MountOptions::default());
    }

    #[test]
    fn the_kernel_checks_where_others_come_in_or_it_is_asked_to() {
        for (list, checks) in
            [("", false), ("default_permissions", true), ("allow_other", true), ("acl", true)]
        {
            assert_eq!(parse(list).unwrap().checked_by_kernel(), checks, "{list}");
        }
    }

    #[test]
    fn a_remount_keeps_what_it_does_not_name() {
        let mounted = MountOptions::of_mount("rw,nosuid,noexec,relatime,idmapped");
        assert_eq!(mounted.flags(), [FilesystemFlag::NoSuid, FilesystemFlag::NoExec]);
        let changed = mounted.and_parse(&["remount,ro,exec"]).unwrap();
        assert_eq!(changed.flags(), [FilesystemFlag::ReadOnly, FilesystemFlag::NoSuid]);
    }

    #[test]
    fn every_option_is_documented() {
        let readme = include_str!("../../README.md");
        for name in KNOWN.split(", ") {
            assert!(readme.contains(&format!("`{name}")), "README.md says nothing of '{name}'");
        }
    }
}
