//! `ssefs rewrap`: files go to the newest version of their key, to another key, to another
//! mode, mounted or not, and no kill at whatever point leaves one without a key that opens it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::bench::{one_line, tree};
use crate::harness::pty::Terminal;
use crate::harness::{
    Bench, NOBODY, Random, User, assert_errno, assert_same, needs_root, pattern, skip, succeed,
};
use crate::keys::faketime;

mod kills;
mod kms;
mod requests;

const KEY: i32 = 5;
const KEYSTORE: i32 = 6;
const IN_USE: i32 = 8;
const INCOMPLETE: i32 = 12;

/// `ssefs rewrap` of the volume, its report as JSON.
pub fn rewrap_command(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.ssefs(&["rewrap", "--quiet", "--json", "--keystore"]);
    command.arg(bench.keystore()).args(arguments).arg(bench.backing());
    command
}

/// Runs it to a full success and answers its report.
#[track_caller]
pub fn rewrap(bench: &Bench, arguments: &[&str]) -> Value {
    let output = succeed(&mut rewrap_command(bench, arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Two keys for supplied mode, as files.
pub fn two_keys(bench: &Bench) -> (String, String) {
    let key = |name: &str, seed| {
        let path = bench.private_file(name, pattern(seed, 32));
        path.to_str().unwrap().to_owned()
    };
    (key("key-one", 1001), key("key-two", 1002))
}

pub fn mount_supplied(bench: &Bench, key: &str) {
    bench.mount(&["--mode", "supplied", "--key-file", key]);
}

/// Makes files of many sizes in the mount and answers what they hold.
pub fn make_files(bench: &Bench, count: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut made = BTreeMap::new();
    for directory in ["d", "d/e"] {
        fs::create_dir_all(bench.file(directory)).unwrap();
    }
    for index in 0..count {
        let directory = ["", "d", "d/e"][index as usize % 3];
        let path = Path::new(directory).join(format!("f{index}"));
        let data = pattern(index, (index * 7919 % 40_000 + 1) as usize);
        fs::write(bench.file(&path), &data).unwrap();
        made.insert(path, data);
    }
    made
}

#[track_caller]
pub fn check_files(bench: &Bench, files: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
    for (path, data) in files {
        let read = fs::read(bench.file(path));
        let read = read.unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
        assert_same(&read, data, &format!("{when}: {}", path.display()));
    }
}

pub fn attribute(path: impl AsRef<Path>, name: &str) -> String {
    let mut buffer = [0; 512];
    let len = rustix::fs::getxattr(path.as_ref(), name, &mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

pub fn mode_of(path: impl AsRef<Path>) -> String {
    attribute(path, "user.ssefs.mode")
}

#[test]
fn from_one_supplied_key_to_another_touches_headers_only() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = two_keys(&bench);
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 20);
    fs::write(bench.file("empty"), b"").unwrap();
    fs::hard_link(bench.file("f0"), bench.file("d/also-f0")).unwrap();
    fs::write(bench.file("read-only"), b"read").unwrap();
    fs::write(bench.file("closed"), b"closed").unwrap();
    for (name, mode) in [("read-only", 0o444), ("closed", 0)] {
        fs::set_permissions(bench.file(name), Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("f0", bench.file("link")).unwrap();
    bench.unmount();
    let before: Vec<_> = files.keys().map(|path| header_and_rest(&bench, path)).collect();
    let report = rewrap(&bench, &["--from-key-file", &one, "--to-key-file", &two]);
    assert_eq!((&report["rewrapped"], &report["files"]), (&22.into(), &23.into()), "{report}");
    assert_eq!(report["keys_retired"][0]["mode"], "supplied", "{report}");
    for (path, (header, rest, metadata)) in files.keys().zip(before) {
        let (now_header, now_rest, now) = header_and_rest(&bench, path);
        assert!(header[..384] != now_header[..384] && header[384..3072] != now_header[384..3072]);
        assert!(header[3072..] == now_header[3072..] && rest == now_rest, "{}", path.display());
        let times = |of: &fs::Metadata| (of.mtime(), of.mtime_nsec(), of.mode(), of.ino());
        assert_eq!(times(&metadata), times(&now), "{}", path.display());
    }
    let mode = |name: &str| fs::metadata(bench.backing().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("read-only"), mode("closed")), (0o444, 0));

    let mut command = bench.mount_command(&["--mode", "supplied", "--key-file", &one]);
    let message = bench.refused(&mut command, KEY);
    assert!(message.contains("wrong key"), "{message}");
    mount_supplied(&bench, &two);
    check_files(&bench, &files, "under the new key");
    assert_eq!(fs::read(bench.file("closed")).unwrap(), b"closed");
    assert_eq!(fs::read(bench.file("link")).unwrap(), files[Path::new("f0")]);
    bench.unmount();

    let again = rewrap(&bench, &["--from-key-file", &two, "--to-key-file", &two]);
    assert_eq!((&again["rewrapped"], &again["already_there"]), (&0.into(), &22.into()), "{again}");
}

/// Page 0, the rest, and the metadata of a backing file.
fn header_and_rest(bench: &Bench, path: &Path) -> (Vec<u8>, Vec<u8>, fs::Metadata) {
    let path = bench.backing().join(path);
    let mut bytes = fs::read(&path).unwrap();
    let rest = bytes.split_off(4096);
    (bytes, rest, fs::metadata(path).unwrap())
}

#[test]
fn to_the_newest_version_after_a_rotation() {
    let Some(library) = faketime() else { return skip("the package faketime is missing") };
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    let files = make_files(&bench, 9);
    bench.unmount();
    let mut days = 0;
    let mut rotate = || {
        days += 100;
        let mut command = bench.mount_command(&[]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", format!("+{days}d"));
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        succeed(&mut command);
    };
    let versions = || {
        let version = |path| attribute(bench.file(path), "user.ssefs.key_version");
        files.keys().map(version).collect::<std::collections::BTreeSet<_>>()
    };
    rotate();
    assert_eq!(versions(), ["1".to_owned()].into());
    let report = rewrap(&bench, &[]);
    assert_eq!((&report["rewrapped"], &report["key_slots_moved"]), (&9.into(), &1.into()));
    assert_eq!(report["mount_point"], bench.mnt().to_str().unwrap(), "{report}");
    assert_eq!(versions(), ["2".to_owned()].into());
    check_files(&bench, &files, "rewrapped while mounted");
    bench.unmount();
    rotate();
    bench.unmount();
    let report = rewrap(&bench, &["--from", "managed"]);
    assert_eq!((&report["rewrapped"], &report["key_slots_moved"]), (&9.into(), &1.into()));
    let report = rewrap(&bench, &[]);
    assert_eq!((&report["rewrapped"], &report["key_slots_moved"]), (&0.into(), &0.into()));
    bench.mount(&[]);
    assert_eq!(versions(), ["3".to_owned()].into());
    check_files(&bench, &files, "rewrapped while unmounted");
    bench.unmount();
}

#[test]
fn from_managed_to_supplied_and_back() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    let files = make_files(&bench, 6);
    bench.unmount();
    let report = rewrap(&bench, &["--to-key-file", &one]);
    assert_eq!(report["keys_retired"][0]["mode"], "managed", "{report}");
    fs::rename(bench.keystore(), bench.path("away")).unwrap();
    mount_supplied(&bench, &one);
    check_files(&bench, &files, "with no keystore");
    assert_eq!(mode_of(bench.file("f0")), "supplied");
    bench.unmount();
    fs::rename(bench.path("away"), bench.keystore()).unwrap();
    rewrap(&bench, &["--from-key-file", &one, "--to", "managed"]);
    bench.mount(&[]);
    check_files(&bench, &files, "back again");
    assert_eq!(mode_of(bench.file("f0")), "managed");
    // The mount has both keys: files come and go while it stands.
    bench.unmount();
    mount_supplied(&bench, &one);
    fs::write(bench.file("new"), b"new").unwrap();
    let report = rewrap(&bench, &["--to-key-file", &one, "--from", "managed"]);
    assert_eq!((&report["rewrapped"], &report["not_selected"]), (&6.into(), &1.into()));
    check_files(&bench, &files, "moved while mounted");
    assert_eq!(mode_of(bench.file("f0")), "supplied");
    bench.unmount();
}

#[test]
fn writers_on_open_files_go_on_while_keys_change() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    bench.unmount();
    mount_supplied(&bench, &one);
    const LEN: usize = 600_000;
    let stop = AtomicBool::new(false);
    let bench = &bench;
    let expected: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || {
                    let path = bench.file(format!("open{writer}"));
                    let mut model = pattern(writer, LEN);
                    fs::write(&path, &model).unwrap();
                    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
                    let mut random = Random::new(writer);
                    while !stop.load(Ordering::Relaxed) {
                        let at = random.below(LEN as u64 - 9000) as usize;
                        let data = pattern(random.number(), random.below(9000) as usize);
                        file.write_all_at(&data, at as u64).unwrap();
                        model[at..at + data.len()].copy_from_slice(&data);
                        if random.below(16) == 0 {
                            file.sync_data().unwrap();
                        }
                        if random.below(64) == 0 {
                            // A file that goes through the states of having no header.
                            let other = bench.file(format!("short{writer}"));
                            fs::write(&other, b"").unwrap();
                            fs::write(&other, &data).unwrap();
                            assert_same(&fs::read(&other).unwrap(), &data, "short");
                        }
                    }
                    model
                })
            })
            .collect();
        let moves = std::panic::catch_unwind(|| {
            for round in 0..12 {
                let report = match round % 2 {
                    0 => rewrap(bench, &["--from-key-file", &one, "--to", "managed"]),
                    _ => rewrap(bench, &["--from-key-file", &one, "--to-key-file", &one]),
                };
                assert_eq!(report["left"], 0, "{report}");
            }
        });
        stop.store(true, Ordering::Relaxed);
        moves.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for remounted in [false, true] {
        for (writer, model) in expected.iter().enumerate() {
            let read = fs::read(bench.file(format!("open{writer}"))).unwrap();
            assert_same(&read, model, &format!("writer {writer}, remounted: {remounted}"));
        }
        if !remounted {
            bench.unmount();
            mount_supplied(bench, &one);
        }
    }
    bench.unmount();
}

#[test]
fn a_mount_is_not_locked_out_unless_that_is_wanted() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = two_keys(&bench);
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 6);
    let descriptor = || fs::read(bench.backing().join(".ssefs/volume.json")).unwrap();
    let before = descriptor();
    let keys = ["--from-key-file", one.as_str(), "--to-key-file", two.as_str()];
    let output = rewrap_command(&bench, &keys).output().unwrap();
    assert_eq!(output.status.code(), Some(KEY));
    assert!(one_line(&output).contains("--allow-lockout"), "{output:?}");
    assert!(before == descriptor(), "the volume was opened to a key that no file has");
    check_files(&bench, &files, "after the refusal");
    let open = OpenOptions::new().read(true).write(true).open(bench.file("f0")).unwrap();
    let report = rewrap(&bench, &[&keys[..], &["--allow-lockout"]].concat());
    assert_eq!((&report["rewrapped"], &report["left"]), (&6.into(), &0.into()), "{report}");
    assert_eq!(report["keys_to_retire"][0]["mode"], "supplied", "{report}");
    assert_errno(fs::read(bench.file("d/f1")), Errno::ACCESS);
    open.write_all_at(b"goes on", 0).unwrap();
    drop(open);
    bench.unmount();
    // As it was mounted both keys open the volume; the next run sees that one is not needed.
    let report = rewrap(&bench, &["--from-key-file", &two, "--to-key-file", &two]);
    assert_eq!(report["keys_retired"][0]["mode"], "supplied", "{report}");
    mount_supplied(&bench, &two);
    let mut files = files;
    let data = files.get_mut(Path::new("f0")).unwrap();
    data.resize(data.len().max(7), 0);
    data[..7].copy_from_slice(b"goes on");
    check_files(&bench, &files, "under the other key");
    bench.unmount();
}

#[test]
fn what_is_left_is_told_with_its_reason() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = two_keys(&bench);
    bench.mount(&[]);
    fs::write(bench.file("managed"), b"by the keystore").unwrap();
    bench.unmount();
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 4);
    bench.unmount();
    let damaged = bench.backing().join("d/f1");
    let whole = fs::read(&damaged).unwrap();
    let file = OpenOptions::new().write(true).open(&damaged).unwrap();
    file.write_all_at(&[whole[140] ^ 1], 140).unwrap();
    fs::write(bench.backing().join("foreign"), b"put there by somebody").unwrap();
    fs::rename(bench.keystore(), bench.path("away")).unwrap();
    let keys = ["--from-key-file", one.as_str(), "--to-key-file", two.as_str()];
    let output = rewrap_command(&bench, &keys).output().unwrap();
    assert_eq!(output.status.code(), Some(INCOMPLETE), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["rewrapped"], &report["left"]), (&3.into(), &3.into()), "{report}");
    let left: BTreeMap<&str, &str> = report["left_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| (left["path"].as_str().unwrap(), left["reason"].as_str().unwrap()))
        .collect();
    let expected = [("d/f1", "damaged"), ("foreign", "damaged"), ("managed", "no_key")];
    assert_eq!(left, expected.into(), "{report}");
    assert_eq!(report["keys_retired"], Value::Array(vec![]), "a file may need it");
    // Mended, the rest follows.
    file.write_all_at(&whole[140..141], 140).unwrap();
    fs::remove_file(bench.backing().join("foreign")).unwrap();
    fs::rename(bench.path("away"), bench.keystore()).unwrap();
    let report = rewrap(&bench, &keys);
    assert_eq!((&report["rewrapped"], &report["already_there"]), (&2.into(), &3.into()));
    mount_supplied(&bench, &two);
    check_files(&bench, &files, "in the end");
    bench.unmount();
}

#[test]
fn a_wrong_key_and_a_directory_that_is_no_volume_change_nothing() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = two_keys(&bench);
    mount_supplied(&bench, &one);
    make_files(&bench, 2);
    bench.unmount();
    let before = content_of(&bench.backing());
    let cases: [(&[&str], i32); 5] = [
        (&["--from-key-file", &two, "--to", "managed"], KEY),
        (&["--to", "managed"], KEY),
        (&["--to", "supplied"], 2),
        (&["--from-key-file", &one, "--to", "kms:alias/none"], KEYSTORE),
        (&[], KEY),
    ];
    for (arguments, code) in cases {
        let message = bench.refused(&mut rewrap_command(&bench, arguments), code);
        assert!(before == content_of(&bench.backing()), "{arguments:?}: {message}");
    }
    // Opened to the keystore too, a wrong key is still one.
    rewrap(&bench, &["--from-key-file", &one, "--to", "managed", "--from", "none"]);
    let before = content_of(&bench.backing());
    let wrong = ["--from-key-file", two.as_str(), "--to", "managed"];
    let message = bench.refused(&mut rewrap_command(&bench, &wrong), KEY);
    assert!(before == content_of(&bench.backing()), "{message}");
    let mut command = bench.ssefs(&["rewrap", "."]);
    let message = bench.refused(&mut command, 3);
    assert!(message.contains("not a volume"), "{message}");
}

/// All files below a directory but for locks, with what they hold.
fn content_of(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = tree(directory).into_keys().filter(|path| path.is_file());
    let paths = paths.filter(|path| !path.ends_with("lock") && !path.ends_with("rewrap"));
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn passphrases_are_asked_for_and_known_again() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 6);
    bench.unmount();
    let (old, new) = ("Passphrase of this volume:", "New passphrase for this volume:");
    let to_passphrase = |bench: &Bench| {
        let arguments = ["--from-key-file", &one, "--to-passphrase"];
        let mut terminal = Terminal::start(&mut rewrap_command(bench, &arguments));
        terminal.answer(new, "correct horse");
        terminal.answer("The same again:", "correct horse");
        let (status, screen) = terminal.finish();
        assert!(status.success(), "{screen}");
        screen
    };
    let screen = to_passphrase(&bench);
    assert!(screen.contains("\"rewrapped\":6") && !screen.contains("horse"), "{screen}");
    // Asked for once more it is the same key, made with the same salt.
    let screen = to_passphrase(&bench);
    assert!(screen.contains("\"already_there\":6"), "{screen}");
    let arguments = ["--from-passphrase", "--to-key-file", &one];
    let mut terminal = Terminal::start(&mut rewrap_command(&bench, &arguments));
    terminal.answer(old, "correct horse");
    let (status, screen) = terminal.finish();
    assert!(status.success() && screen.contains("\"rewrapped\":6"), "{screen}");
    mount_supplied(&bench, &one);
    check_files(&bench, &files, "by key again");
    bench.unmount();
}

#[test]
fn two_rewraps_exclude_each_other() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), b"content").unwrap();
    let lock = fs::File::create(bench.backing().join(".ssefs/rewrap")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for mounted in [true, false] {
        let message = bench.refused(&mut rewrap_command(&bench, &[]), IN_USE);
        assert!(message.contains("another rewrap"), "{message}");
        if mounted {
            bench.unmount();
        }
    }
    drop(lock);
    rewrap(&bench, &[]);
}

#[test]
fn an_ordinary_user_rewraps_what_is_theirs() {
    if !needs_root() {
        return;
    }
    let setup = crate::harness::Setup::of_nobody().mount_only("a plain directory has no keys");
    let Some(mut m) = setup.start() else { return };
    let key = m.scratch().join("key");
    fs::write(&key, pattern(7, 32)).unwrap();
    std::os::unix::fs::chown(&key, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let (key, mnt) = (key.to_str().unwrap().to_owned(), m.mnt().to_owned());
    let modes = [0o644, 0o444, 0o200, 0];
    User::ordinary(NOBODY).run(|| {
        for mode in modes {
            let path = mnt.join(format!("{mode:o}"));
            fs::write(&path, format!("of mode {mode:o}")).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    });
    let run = |m: &crate::harness::Mount, arguments: &[&str]| -> Value {
        let mut command = m.command();
        command.args(["rewrap", "--quiet", "--json", "--keystore"]).arg(m.keystore());
        let output = succeed(command.args(arguments).arg(m.backing()));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let check = |m: &crate::harness::Mount, expected: &str| {
        for mode in modes {
            let path = m.path(format!("{mode:o}"));
            let metadata = fs::metadata(m.backing().join(format!("{mode:o}"))).unwrap();
            assert_eq!(metadata.mode() & 0o7777, mode, "{}", path.display());
            let shown = User::ordinary(NOBODY).run(|| {
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                let shown = (mode_of(&path), fs::read_to_string(&path).unwrap());
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                shown
            });
            assert_eq!(shown, (expected.to_owned(), format!("of mode {mode:o}")));
        }
    };
    m.unmount();
    assert_eq!(run(&m, &["--to-key-file", &key])["rewrapped"], 4);
    m.remount_with(&["mode=supplied", &format!("key_file={key}")]);
    check(&m, "supplied");
    // The mount holds the supplied key alone; it is opened to both.
    m.unmount();
    assert_eq!(run(&m, &["--from-key-file", &key, "--to", "managed"])["rewrapped"], 4);
    m.remount_with(&["mode=managed"]);
    check(&m, "managed");
    m.unmount();
    m.remount_with(&["mode=supplied", &format!("key_file={key}")]);
    let report = run(&m, &["--to-key-file", &key]);
    assert_eq!((&report["rewrapped"], &report["left"]), (&4.into(), &0.into()), "{report}");
    assert!(report["mount_point"].is_string());
    check(&m, "supplied");
    m.finish();
}

#[test]
fn an_interrupt_ends_it_with_the_files_in_hand() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    let files = make_files(&bench, 600);
    bench.unmount();
    let mut interrupted = 0;
    for delay in [5, 10, 20, 30] {
        let to: &[&str] = match delay % 20 {
            0 => &["--from-key-file", &one, "--to", "managed", "--jobs", "1"],
            _ => &["--from-key-file", &one, "--to-key-file", &one, "--jobs", "1"],
        };
        let mut command = rewrap_command(&bench, &to[2 * usize::from(!knows(&bench))..]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let _ = kill_process(pid, Signal::INT);
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => {}
            Some(INCOMPLETE) => {
                let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!((&report["interrupted"], &report["left"]), (&true.into(), &0.into()));
                interrupted += 1;
            }
            // Before it watches for signals, one ends it as it does any program.
            None => {}
            code => panic!("{code:?}: {output:?}"),
        }
        let epochs = fs::read_to_string(bench.backing().join(".ssefs/epochs.json")).unwrap();
        assert!(output.status.code().is_none() || epochs.contains("\"unclean\":[]"), "{epochs}");
    }
    assert!(interrupted > 0, "no signal struck while it was at work");
    bench.mount(&["--key-file", &one]);
    check_files(&bench, &files, "after interruptions");
    bench.unmount();
}

/// Whether the volume has been opened to a supplied key.
fn knows(bench: &Bench) -> bool {
    fs::read_to_string(bench.backing().join(".ssefs/volume.json")).unwrap().contains("supplied")
}
