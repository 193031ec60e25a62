//! Kms mode without a mount: rights at every opening, keys of directories, DEKs that are taken
//! from open files.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::directory_keys::KEY_ID;
use super::tests::{Fixture, ROOT_CALLER, USER, os};
use super::{Handle, NodeId};
use crate::format::Mode;
use crate::keys::audit::{AuditLog, AuditOptions};
use crate::keys::identity::Identity;
use crate::keys::kms::policy::Principal;
use crate::keys::kms::{
    Action, BucketKeyLimits, CreateKey, GrantRequest, KmsOptions, KmsProvider, LocalKms, Policy,
};
use crate::keys::{Caller, DekCache, Keyring, Keystore};

const OTHER_USER: Caller = Caller { uid: 12_346, gid: 54_322, pid: 0 };

/// A file system in kms mode and its KMS, as another process sees it.
struct Kms {
    fx: Fixture,
    kms: LocalKms,
    own: Identity,
    key: String,
    _scratch: tempfile::TempDir,
}

impl Kms {
    fn new() -> Self {
        Self::with(KmsOptions::default())
    }

    fn with(options: KmsOptions) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let open = || {
            let path = scratch.path().join("keystore");
            let keystore = Arc::new(Keystore::open_or_create(&path).unwrap());
            let audit = AuditLog::open(Arc::clone(&keystore), AuditOptions::default()).unwrap();
            LocalKms::new(keystore, Arc::new(audit))
        };
        let (kms, own) = (open(), Identity::own());
        let request = CreateKey { alias: Some("alias/finance"), ..CreateKey::default() };
        let key = kms.create_key(&own, request).unwrap().key_id.0;
        let fx = Fixture::with_keys(|volume| {
            let of_mount = Arc::new(open());
            let alias = Some("alias/finance");
            let provider = KmsProvider::new(of_mount, alias, volume, options).unwrap();
            let cache = DekCache::new(64, Duration::from_secs(60));
            Keyring::new(vec![Box::new(provider)], Mode::Kms, cache)
        });
        Self { fx, kms, own, key, _scratch: scratch }
    }

    fn grant(&self, uid: u32, operations: &[Action]) {
        let (own, actions) = (self.own.caller().uid, operations.iter().map(|action| action.name()));
        let actions: Vec<String> = actions.map(|name| format!("\"kms:{name}\"")).collect();
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[
                {{"Effect":"Allow","Principal":{{"User":"{own}"}},"Action":"kms:*"}},
                {{"Effect":"Allow","Principal":{{"User":"{uid}"}},"Action":[{}]}}]}}"#,
            actions.join(",")
        );
        let policy = Policy::parse(&text).unwrap();
        self.kms.put_key_policy(&self.own, &self.key, policy, false).unwrap();
    }

    fn opens(&self, caller: Caller, node: NodeId) -> Result<Handle, Errno> {
        let opened = self.fx.fs.open(caller, node, libc::O_RDONLY);
        opened.map(|opened| opened.handle).map_err(|error| Errno::from_raw_os_error(error.errno()))
    }

    /// A file that nobody uses and that is open underneath.
    fn idle_file(&self) -> NodeId {
        let file = self.fx.create(NodeId::ROOT, "file", b"figures");
        let handle = self.opens(ROOT_CALLER, file).unwrap();
        self.fx.fs.release(handle).unwrap();
        assert_eq!(self.fx.fs.open.len(), 1, "it is idle");
        file
    }

    fn read(&self, handle: Handle) -> Result<Vec<u8>, Errno> {
        let mut buf = [0; 64];
        let read = self.fx.fs.read(handle, 0, &mut buf);
        read.map(|len| buf[..len].to_vec()).map_err(|error| Errno::from_raw_os_error(error.errno()))
    }

    fn text(&self, node: NodeId, name: &str) -> String {
        String::from_utf8(self.fx.fs.xattr(ROOT_CALLER, node, os(name)).unwrap()).unwrap()
    }
}

#[test]
fn the_right_to_the_key_decides_whatever_the_mode_bits_allow() {
    let it = Kms::new();
    let file = it.fx.create(NodeId::ROOT, "file", b"figures");
    assert_eq!(it.text(file, KEY_ID), it.key, "the id, not the alias");
    assert_eq!(it.text(file, "user.ssefs.mode"), "kms");
    for round in 0..2 {
        // In the second round the DEK is in memory.
        assert_eq!(it.opens(USER, file), Err(Errno::ACCESS), "round {round}");
        let own = it.opens(ROOT_CALLER, file).unwrap();
        assert_eq!(it.opens(USER, file), Err(Errno::ACCESS), "beside an open handle");
        it.fx.fs.release(own).unwrap();
    }
    it.grant(USER.uid, &[Action::Decrypt]);
    let handle = it.opens(USER, file).unwrap();
    assert_eq!(it.read(handle).unwrap(), b"figures");
    assert_eq!(it.opens(OTHER_USER, file), Err(Errno::ACCESS));
    it.fx.fs.release(handle).unwrap();
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let made = it.fx.fs.create(USER, NodeId::ROOT, os("new"), 0o644, 0, flags);
    assert!(made.unwrap_err().is(Errno::ACCESS), "reading is not making");
    assert!(it.fx.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("new")).is_err(), "nothing is left");
    it.grant(USER.uid, &[Action::Decrypt, Action::GenerateDataKey]);
    let (_, made) = it.fx.fs.create(USER, NodeId::ROOT, os("new"), 0o644, 0, flags).unwrap();
    it.fx.fs.release(made.handle).unwrap();
}

#[test]
fn a_grant_is_seen_at_the_next_opening_and_so_is_its_end() {
    let it = Kms::new();
    let file = it.fx.create(NodeId::ROOT, "file", b"figures");
    let request = GrantRequest {
        name: None,
        grantee: Principal::user(&USER.uid.to_string()).unwrap(),
        operations: &[Action::Decrypt],
        constraints: None,
    };
    let grant = it.kms.create_grant(&it.own, &it.key, request).unwrap();
    let handle = it.opens(USER, file).unwrap();
    it.fx.fs.release(handle).unwrap();
    it.kms.revoke_grant(&it.own, &it.key, grant.id()).unwrap();
    assert_eq!(it.opens(USER, file), Err(Errno::ACCESS));
}

#[test]
fn a_disabled_key_refuses_openings_at_once_and_open_handles_soon() {
    for bucket_keys in [None, Some(BucketKeyLimits::DEFAULT)] {
        let it = Kms::with(KmsOptions { bucket_keys, ..KmsOptions::default() });
        let file = it.fx.create(NodeId::ROOT, "file", b"figures");
        let handle = it.fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        it.fx.fs.write(handle, 0, b"F", false).unwrap();
        it.fx.fs.write(handle, 7, b", and more", false).unwrap();
        it.kms.disable_key(&it.own, &it.key).unwrap();
        assert_eq!(it.opens(ROOT_CALLER, file), Err(Errno::NOKEY));
        let dropped = RefCell::new(Vec::new());
        it.fx.fs.withdraw_unusable(|node| dropped.borrow_mut().push(node));
        assert_eq!(*dropped.borrow(), [file, file], "before it and after it");
        assert_eq!(it.read(handle), Err(Errno::NOKEY));
        for refused in [
            it.fx.fs.write(handle, 0, b"x", false).map(drop),
            it.fx.fs.allocate(handle, 0, 100_000, 0),
            it.fx.fs.allocate(handle, 0, 4, libc::FALLOC_FL_ZERO_RANGE),
        ] {
            assert!(refused.unwrap_err().is(Errno::NOKEY));
        }
        it.fx.fs.sync(handle, false).unwrap();
        it.fx.fs.withdraw_unusable(|_| panic!("it was taken already"));
        it.kms.enable_key(&it.own, &it.key).unwrap();
        let again = it.opens(ROOT_CALLER, file).unwrap();
        for handle in [handle, again] {
            assert_eq!(it.read(handle).unwrap(), b"Figures, and more");
            it.fx.fs.release(handle).unwrap();
        }
        it.kms.schedule_key_deletion(&it.own, &it.key, 7).unwrap();
        assert_eq!(it.opens(ROOT_CALLER, file), Err(Errno::NOKEY));
    }
}

#[test]
fn a_file_that_nobody_uses_is_closed_when_its_key_is_looked_after() {
    let it = Kms::new();
    let file = it.idle_file();
    it.kms.disable_key(&it.own, &it.key).unwrap();
    assert_eq!(it.opens(ROOT_CALLER, file), Err(Errno::NOKEY));
    it.fx.fs.withdraw_unusable(|_| panic!("nobody has it open"));
    assert_eq!(it.fx.fs.open.len(), 0);
    assert_eq!(it.fx.fs.statistics_report().dek_cache.entries, 0);
}

/// Nobody who is refused keeps the key of a file in memory.
#[test]
fn an_opening_that_is_refused_does_not_keep_a_file_open() {
    let it = Kms::new();
    let file = it.idle_file();
    for _ in 0..2 {
        assert_eq!(it.fx.fs.open.len(), 1, "it is idle");
        assert_eq!(it.opens(USER, file), Err(Errno::ACCESS));
        it.fx.fs.keep_up(false);
    }
    assert_eq!(it.fx.fs.open.len(), 0);
}

#[test]
fn a_withdrawn_file_that_is_closed_opens_after_a_remount() {
    let it = Kms::new();
    let file = it.fx.create(NodeId::ROOT, "file", b"");
    let handle = it.fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
    it.fx.fs.write(handle, 0, &[7; 10_000], false).unwrap();
    it.kms.disable_key(&it.own, &it.key).unwrap();
    it.fx.fs.withdraw_unusable(|_| {});
    it.fx.fs.release(handle).unwrap();
    it.kms.enable_key(&it.own, &it.key).unwrap();
    assert_eq!(it.fx.content(file), [7; 10_000]);
}

#[test]
fn the_nearest_directory_chooses_the_key_of_what_is_made_below_it() {
    let it = Kms::new();
    let alias = Some("alias/law");
    let law = it.kms.create_key(&it.own, CreateKey { alias, ..CreateKey::default() }).unwrap();
    let mkdir = |parent, name| {
        it.fx.fs.make_directory(ROOT_CALLER, parent, os(name), 0o755, 0).unwrap().node
    };
    let (top, plain) = (mkdir(NodeId::ROOT, "law"), mkdir(NodeId::ROOT, "plain"));
    let below = mkdir(top, "below");
    let set = |caller, node, value: &str| {
        it.fx.fs.set_xattr(caller, node, os(KEY_ID), value.as_bytes(), 0)
    };
    assert!(set(ROOT_CALLER, top, "alias/none").unwrap_err().is(Errno::ACCESS));
    assert!(set(USER, top, "alias/law").unwrap_err().is(Errno::ACCESS));
    set(ROOT_CALLER, top, "alias/law").unwrap();
    assert_eq!(it.text(top, KEY_ID), law.key_id.0, "resolved when it was set");
    for (directory, expected) in [(top, &law.key_id.0), (below, &law.key_id.0), (plain, &it.key)] {
        let file = it.fx.create(directory, "file", b"text");
        assert_eq!(&it.text(file, KEY_ID), expected);
        let empty = it.fx.create(directory, "empty", b"");
        let handle = it.fx.fs.open(ROOT_CALLER, empty, libc::O_WRONLY).unwrap().handle;
        it.fx.fs.write(handle, 0, b"later", false).unwrap();
        it.fx.fs.release(handle).unwrap();
        assert_eq!(&it.text(empty, KEY_ID), expected);
    }
    it.kms.disable_key(&it.own, &law.key_id.0).unwrap();
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let made = it.fx.fs.create(ROOT_CALLER, below, os("new"), 0o644, 0, flags);
    assert!(made.unwrap_err().is(Errno::NOKEY), "never another key instead");
    it.fx.create(plain, "new", b"text");
}

#[test]
fn old_versions_open_and_new_files_take_the_newest() {
    for bucket_keys in [None, Some(BucketKeyLimits::DEFAULT)] {
        let it = Kms::with(KmsOptions { bucket_keys, ..KmsOptions::default() });
        let old = it.fx.create(NodeId::ROOT, "old", b"old");
        it.kms.rotate_key_on_demand(&it.own, &it.key).unwrap();
        let new = it.fx.create(NodeId::ROOT, "new", b"new");
        assert_eq!(it.text(old, "user.ssefs.key_version"), "1");
        assert_eq!(it.text(new, "user.ssefs.key_version"), "2");
        assert_eq!((it.fx.content(old), it.fx.content(new)), (b"old".to_vec(), b"new".to_vec()));
    }
}

#[test]
fn an_alias_that_moves_decides_for_new_files_only() {
    let it = Kms::new();
    let old = it.fx.create(NodeId::ROOT, "old", b"old");
    let next = it.kms.create_key(&it.own, CreateKey::default()).unwrap().key_id.0;
    it.kms.update_alias(&it.own, "alias/finance", &next).unwrap();
    let new = it.fx.create(NodeId::ROOT, "new", b"new");
    assert_eq!((it.text(old, KEY_ID), it.text(new, KEY_ID)), (it.key.clone(), next));
    assert_eq!((it.fx.content(old), it.fx.content(new)), (b"old".to_vec(), b"new".to_vec()));
    it.kms.delete_alias(&it.own, "alias/finance").unwrap();
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let made = it.fx.fs.create(ROOT_CALLER, NodeId::ROOT, os("none"), 0o644, 0, flags);
    assert!(made.unwrap_err().is(Errno::ACCESS));
    assert_eq!(it.fx.content(old), b"old");
}
