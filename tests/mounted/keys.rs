//! Keys as people bring them: by file, descriptor, standard input and passphrase; wrong ones,
//! unsafe ones, and volumes that have files of two modes.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::io::Errno;

use crate::harness::bench::{one_line, tree};
use crate::harness::pty::Terminal;
use crate::harness::{
    Bench, assert_errno, assert_same, needs_program, pattern, skip, succeed, sys,
};

const RAW: [u8; 32] = *b"\x00raw key bytes, newline at end!\n";
const HEXADECIMAL: &str = "00726177206b65792062797465732c206e65776c696e6520617420656e64210a";
const BASE64: &str = "AHJhdyBrZXkgYnl0ZXMsIG5ld2xpbmUgYXQgZW5kIQo=";

const KEY: i32 = 5;
const KEYSTORE: i32 = 6;

/// Runs the command with this on its standard input.
fn with_input(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().expect("piped").write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The command that mounts in supplied mode with the file as key.
fn supplied(bench: &Bench, key: &Path, extra: &[&str]) -> Command {
    let arguments = ["--mode", "supplied", "--key-file", key.to_str().unwrap()];
    bench.mount_command(&[&arguments, extra].concat())
}

#[track_caller]
fn mount_supplied(bench: &Bench, key: &Path) {
    succeed(&mut supplied(bench, key, &[]));
}

fn mode_of(path: &Path) -> String {
    let mut buffer = [0; 64];
    let len = rustix::fs::getxattr(path, "user.ssefs.mode", &mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn one_key_in_every_form_and_by_every_way() {
    let Some(bench) = Bench::new() else { return };
    let data = pattern(1, 50_000);
    let raw = bench.private_file("raw", RAW);
    mount_supplied(&bench, &raw);
    fs::write(bench.file("f"), &data).unwrap();
    assert_eq!(mode_of(&bench.file("f")), "supplied");
    bench.unmount();
    let check = |way: &str| {
        assert_same(&fs::read(bench.file("f")).unwrap(), &data, way);
        bench.unmount();
    };
    let upper = HEXADECIMAL.to_uppercase();
    let forms: [(&str, &[u8]); 5] = [
        ("raw", &RAW),
        ("hexadecimal", HEXADECIMAL.as_bytes()),
        ("hexadecimal in capitals", upper.as_bytes()),
        ("hexadecimal and a newline", &[HEXADECIMAL.as_bytes(), b"\n"].concat()),
        ("base64 and a newline", &[BASE64.as_bytes(), b"\n"].concat()),
    ];
    for (form, content) in forms {
        let path = bench.private_file("form", content);
        mount_supplied(&bench, &path);
        check(&format!("a file with the key, {form}"));

        let mut command = bench.mount_command(&["--mode", "supplied", "--key-file", "-"]);
        let output = with_input(&mut command, content);
        assert!(output.status.success(), "{output:?}");
        check(&format!("standard input with the key, {form}"));

        let mut command = bench.mount_command(&["-o", "mode=supplied,key_file=-"]);
        let output = with_input(&mut command, content);
        assert!(output.status.success(), "{output:?}");
        check(&format!("standard input by option with the key, {form}"));

        let file = File::open(&path).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file).to_string();
        let mut command = bench.mount_command(&["--mode", "supplied", "--key-fd", &number]);
        sys::inherit(&mut command, &file);
        succeed(&mut command);
        check(&format!("a descriptor with the key, {form}"));
    }
    let mut command = bench.mount_command(&["--mode", "supplied", "--key-fd", "0"]);
    let output = with_input(&mut command, &RAW);
    assert!(output.status.success(), "{output:?}");
    check("standard input by number");
}

#[test]
fn no_key_is_left_where_others_look() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.private_file("raw", RAW);
    mount_supplied(&bench, &raw);
    fs::write(bench.file("f"), b"content").unwrap();
    let pid = bench.daemon();
    for place in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{place}")).unwrap();
        for form in [&RAW[1..20], &HEXADECIMAL.as_bytes()[..20], &BASE64.as_bytes()[..20]] {
            let found = bytes.windows(form.len()).any(|window| window == form);
            assert!(!found, "the key stands in /proc/{pid}/{place}");
        }
    }
    bench.unmount();
    for (path, trace) in tree(&bench.backing()).into_iter().chain(tree(&bench.keystore())) {
        for form in [&RAW[..], HEXADECIMAL.as_bytes(), BASE64.as_bytes()] {
            assert!(!trace.holds(form), "the supplied key stands in {}", path.display());
        }
    }
}

#[test]
fn a_wrong_key_changes_nothing() {
    let Some(bench) = Bench::new() else { return };
    mount_supplied(&bench, &bench.private_file("right", RAW));
    fs::write(bench.file("f"), pattern(1, 10_000)).unwrap();
    bench.unmount();
    let wrong = bench.private_file("wrong", [7; 32]);
    let before = (tree(&bench.backing()), tree(&bench.keystore()));
    for extra in [&[][..], &["-f"], &["-o", "ro"]] {
        let message = bench.refused(&mut supplied(&bench, &wrong, extra), KEY);
        assert!(message.contains("wrong key"), "{message}");
    }
    assert!(before == (tree(&bench.backing()), tree(&bench.keystore())), "something changed");
    mount_supplied(&bench, &bench.path("right"));
    assert_same(&fs::read(bench.file("f")).unwrap(), &pattern(1, 10_000), "afterwards");
    bench.unmount();
}

#[test]
fn keys_that_are_none_make_no_volume() {
    let Some(bench) = Bench::new() else { return };
    let cases: [(&[u8], &str); 5] = [
        (b"", "holds nothing"),
        (&[1; 31], "holds 31 bytes"),
        (&[1; 33], "holds 33 bytes"),
        (&[b'x'; 64], "not all hexadecimal"),
        (&[1; 4096], "more than 1024 bytes"),
    ];
    for (content, expected) in cases {
        let key = bench.private_file("key", content);
        let message = bench.refused(&mut supplied(&bench, &key, &[]), KEY);
        assert!(message.contains(expected), "{message}");
    }
    let message = bench.refused(&mut supplied(&bench, &bench.path("absent"), &[]), KEY);
    assert!(message.contains("absent") && message.contains("No such file"), "{message}");
    let message =
        bench.refused(&mut bench.mount_command(&["--mode", "supplied", "--key-fd", "77"]), KEY);
    assert!(message.contains("--key-fd 77"), "{message}");
    let message = bench.refused(&mut bench.mount_command(&["--mode", "supplied"]), 2);
    assert!(message.contains("--key-file"), "{message}");
    assert_eq!(fs::read_dir(bench.backing()).unwrap().count(), 0, "a volume was begun");
    assert!(!bench.keystore().exists(), "a keystore was made for nothing");
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let key = bench.private_file("key", RAW);
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let message = bench.refused(&mut supplied(&bench, &key, &[]), KEY);
        assert!(message.contains("chmod 600"), "mode {mode:o}: {message}");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    mount_supplied(&bench, &key);
    bench.unmount();
}

#[test]
fn a_passphrase_is_asked_for_twice_and_then_once() {
    let Some(bench) = Bench::new() else { return };
    let arguments = ["--mode", "supplied", "--passphrase"];
    let (new, again) = ("New passphrase for this volume:", "The same again:");
    let known = "Passphrase of this volume:";
    let secret = "correct horse, grüße";

    let mut terminal = Terminal::start(&mut bench.mount_command(&arguments));
    terminal.answer(new, secret);
    terminal.answer(again, "something else");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(KEY), "{screen}");
    assert!(screen.contains("the two passphrases differ"), "{screen}");

    let mut terminal = Terminal::start(&mut bench.mount_command(&arguments));
    terminal.answer(new, secret);
    terminal.answer(again, secret);
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert!(!screen.contains("horse"), "the passphrase was echoed: {screen}");
    fs::write(bench.file("f"), b"content").unwrap();
    assert_eq!(mode_of(&bench.file("f")), "supplied");
    bench.unmount();

    let before = tree(&bench.backing());
    let mut terminal = Terminal::start(&mut bench.mount_command(&arguments));
    terminal.answer(known, "wrong horse");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(KEY), "{screen}");
    assert!(screen.contains("wrong key"), "{screen}");
    let mut terminal = Terminal::start(&mut bench.mount_command(&arguments));
    terminal.answer(known, "");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(KEY), "{screen}");
    assert!(screen.contains("empty"), "{screen}");
    assert!(before == tree(&bench.backing()), "a wrong passphrase changed something");

    let mut terminal = Terminal::start(&mut bench.mount_command(&arguments));
    terminal.answer(known, secret);
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert!(!screen.contains("again"), "asked twice for a known one: {screen}");
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    bench.unmount();

    // A key where a passphrase belongs, told as such.
    let key = bench.private_file("key", RAW);
    let message = bench.refused(&mut supplied(&bench, &key, &[]), KEY);
    assert!(message.contains("use --passphrase"), "{message}");
}

#[test]
fn a_passphrase_without_a_terminal_is_refused() {
    if !needs_program("setsid") {
        return;
    }
    let Some(bench) = Bench::new() else { return };
    let inner = bench.mount_command(&["--mode", "supplied", "--passphrase"]);
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(KEY));
    let message = one_line(&output);
    assert!(message.contains("terminal") && message.contains("key file"), "{message}");
}

#[test]
fn a_protected_keystore_asks_and_refuses() {
    let Some(bench) = Bench::new() else { return };
    let (new, known) = ("New passphrase for the keystore", "Passphrase of the keystore");
    let question = |start: &str| format!("{start} {}:", bench.keystore().display());
    let mut terminal = Terminal::start(&mut bench.mount_command(&["--passphrase"]));
    terminal.answer(&question(new), "open sesame");
    terminal.answer("The same again:", "open sesame");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    fs::write(bench.file("f"), b"content").unwrap();
    assert_eq!(mode_of(&bench.file("f")), "managed");
    bench.unmount();

    let before = (tree(&bench.backing()), tree(&bench.keystore()));
    let mut terminal = Terminal::start(&mut bench.mount_command(&[]));
    terminal.answer(&question(known), "open barley");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(KEY), "{screen}");
    assert!(before == (tree(&bench.backing()), tree(&bench.keystore())), "something changed");

    let mut terminal = Terminal::start(&mut bench.mount_command(&[]));
    terminal.answer(&question(known), "open sesame");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    bench.unmount();
}

#[test]
fn files_of_the_other_mode_open_with_its_key_only() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("managed"), b"by the keystore").unwrap();
    bench.unmount();
    let key = bench.private_file("key", RAW);
    mount_supplied(&bench, &key);
    fs::write(bench.file("supplied"), b"by the user").unwrap();
    assert_eq!(mode_of(&bench.file("supplied")), "supplied");
    // The keystore is at hand, so files of managed mode open here, too.
    assert_eq!(fs::read(bench.file("managed")).unwrap(), b"by the keystore");
    fs::write(bench.file("managed"), b"rewritten").unwrap();
    bench.unmount();

    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("managed")).unwrap(), b"rewritten");
    assert_errno(fs::read(bench.file("supplied")), Errno::ACCESS);
    assert_errno(fs::write(bench.file("supplied"), b"over it"), Errno::ACCESS);
    assert_eq!(fs::metadata(bench.file("supplied")).unwrap().len(), 11, "its size needs no key");
    fs::rename(bench.file("supplied"), bench.file("renamed")).unwrap();
    bench.unmount();

    bench.mount(&["--key-file", key.to_str().unwrap()]);
    assert_eq!(fs::read(bench.file("managed")).unwrap(), b"rewritten");
    assert_eq!(fs::read(bench.file("renamed")).unwrap(), b"by the user");
    fs::write(bench.file("new"), b"new").unwrap();
    assert_eq!(mode_of(&bench.file("new")), "managed");
    bench.unmount();

    let elsewhere = bench.path("no-keystore");
    let arguments = ["--keystore", elsewhere.to_str().unwrap(), "mount", "--mode", "supplied"];
    let mut command = bench.ssefs(&arguments);
    command.arg("--key-file").arg(&key).arg(bench.backing()).arg(bench.mnt());
    succeed(&mut command);
    assert_eq!(fs::read(bench.file("renamed")).unwrap(), b"by the user");
    assert_errno(fs::read(bench.file("managed")), Errno::ACCESS);
    bench.unmount();
    assert!(!elsewhere.exists(), "a keystore was made where none is needed");
}

#[test]
fn a_volume_of_supplied_keys_is_not_opened_by_managed_mode() {
    let Some(bench) = Bench::new() else { return };
    let key = bench.private_file("key", RAW);
    mount_supplied(&bench, &key);
    fs::write(bench.file("f"), b"content").unwrap();
    bench.unmount();
    // A keystore exists, so that only the volume can be what is refused.
    bench.directory("other");
    let other = bench.directory("other-mnt");
    let mut command = bench.ssefs(&["mount", "--keystore"]);
    succeed(command.arg(bench.keystore()).arg(bench.path("other")).arg(&other));
    bench.until_unused(bench.ssefs(&["unmount"]).arg(&other));
    bench.wait_for_daemons();
    let before = (tree(&bench.backing()), tree(&bench.keystore()));
    let message = bench.refused(&mut bench.mount_command(&[]), KEY);
    assert!(message.contains("--mode supplied"), "{message}");
    assert!(before == (tree(&bench.backing()), tree(&bench.keystore())), "something changed");

    bench.mount(&["--key-file", key.to_str().unwrap()]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    fs::write(bench.file("g"), b"managed").unwrap();
    assert_eq!(mode_of(&bench.file("g")), "managed");
    bench.unmount();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("g")).unwrap(), b"managed");
    assert_errno(fs::read(bench.file("f")), Errno::ACCESS);
    bench.unmount();
}

#[test]
fn a_keystore_that_is_missing_or_unsafe_is_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), b"content").unwrap();
    bench.unmount();
    let before = tree(&bench.backing());
    for mode in [0o755, 0o750, 0o701, 0o720] {
        fs::set_permissions(bench.keystore(), Permissions::from_mode(mode)).unwrap();
        let message = bench.refused(&mut bench.mount_command(&[]), KEYSTORE);
        let shown = bench.keystore().display().to_string();
        assert!(message.contains(&shown) && message.contains("chmod 700"), "{message}");
    }
    fs::set_permissions(bench.keystore(), Permissions::from_mode(0o700)).unwrap();
    let mut checked = 0;
    // What this mount reads; the audit log's own record is read where a key is made or used.
    let is_read = |name: &str| name == "root.key" || name.starts_with("managed-");
    for file in fs::read_dir(bench.keystore()).unwrap().map(Result::unwrap) {
        if !is_read(file.file_name().to_str().unwrap()) {
            continue;
        }
        checked += 1;
        fs::set_permissions(file.path(), Permissions::from_mode(0o640)).unwrap();
        let message = bench.refused(&mut bench.mount_command(&[]), KEYSTORE);
        assert!(message.contains("chmod 600"), "{}: {message}", file.path().display());
        fs::set_permissions(file.path(), Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(checked, 2);
    fs::rename(bench.keystore(), bench.path("away")).unwrap();
    let message = bench.refused(&mut bench.mount_command(&[]), KEYSTORE);
    assert!(message.contains("keystore"), "{message}");
    assert!(!bench.keystore().exists(), "an empty keystore was made for a volume that has keys");
    // An empty one in its place is not the volume's either.
    bench.directory("keystore");
    fs::set_permissions(bench.keystore(), Permissions::from_mode(0o700)).unwrap();
    let output = bench.mount_command(&[]).output().unwrap();
    assert!([KEY, KEYSTORE].contains(&output.status.code().unwrap()), "{output:?}");
    one_line(&output);
    assert_eq!(fs::read_dir(bench.keystore()).unwrap().count(), 0, "keys were made in it");
    fs::remove_dir(bench.keystore()).unwrap();
    assert!(before == tree(&bench.backing()), "the volume was changed");
    fs::rename(bench.path("away"), bench.keystore()).unwrap();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    bench.unmount();
}

#[test]
fn a_keystore_in_the_volume_is_refused() {
    let Some(bench) = Bench::new() else { return };
    std::os::unix::fs::symlink(bench.backing(), bench.path("link")).unwrap();
    for place in ["backing", "backing/keys", "backing/deep/keys", "link/keys", "mnt/../backing/k"] {
        let mut command = bench.ssefs(&["mount", "--keystore"]);
        command.arg(bench.path(place)).arg(bench.backing()).arg(bench.mnt());
        let message = bench.refused(&mut command, KEYSTORE);
        assert!(message.contains("--keystore"), "{place}: {message}");
        assert_eq!(fs::read_dir(bench.backing()).unwrap().count(), 0, "{place}");
    }
}

#[test]
fn one_keystore_serves_two_volumes() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), b"first").unwrap();
    let (second, second_mnt) = (bench.directory("second"), bench.directory("second-mnt"));
    let mount_second = || {
        let mut command = bench.ssefs(&["mount", "--keystore"]);
        succeed(command.arg(bench.keystore()).arg(&second).arg(&second_mnt));
    };
    mount_second();
    fs::write(second_mnt.join("f"), b"second").unwrap();
    assert_eq!(bench.daemons().len(), 2);
    bench.until_unused(bench.ssefs(&["unmount"]).arg(&second_mnt));
    bench.unmount();
    // A file of the one is no file of the other.
    fs::copy(bench.backing().join("f"), second.join("stranger")).unwrap();
    bench.mount(&[]);
    mount_second();
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"first");
    assert_eq!(fs::read(second_mnt.join("f")).unwrap(), b"second");
    assert_errno(fs::read(second_mnt.join("stranger")), Errno::IO);
    bench.until_unused(bench.ssefs(&["unmount"]).arg(&second_mnt));
    bench.unmount();
}

#[test]
fn the_keystore_is_named_in_three_ways() {
    let Some(bench) = Bench::new() else { return };
    let (backing, mnt) = (bench.backing(), bench.mnt());
    let place = bench.path("keys");
    let mut before = bench.ssefs(&["--keystore"]);
    before.arg(&place).arg("mount").arg(&backing).arg(&mnt);
    let mut after = bench.ssefs(&["mount"]);
    after.arg(&backing).arg(&mnt).arg("--keystore").arg(&place);
    let mut environment = bench.ssefs(&["mount"]);
    environment.env("SSEFS_KEYSTORE", &place).arg(&backing).arg(&mnt);
    let mut option = bench.ssefs(&["mount", "-o"]);
    option.arg(format!("keystore={}", place.display())).arg(&backing).arg(&mnt);
    let mut stronger = bench.ssefs(&["mount", "--keystore"]);
    stronger.env("SSEFS_KEYSTORE", bench.path("elsewhere")).arg(&place).arg(&backing).arg(&mnt);
    for (round, command) in [before, after, environment, option, stronger].iter_mut().enumerate() {
        succeed(command);
        if round == 0 {
            fs::write(bench.file("f"), b"content").unwrap();
        }
        assert_eq!(fs::read(bench.file("f")).unwrap(), b"content", "{command:?}");
        bench.unmount();
    }
    assert!(place.is_dir() && !bench.path("elsewhere").exists());
    assert!(!bench.path("data-home").exists(), "the default keystore was used");
}

#[test]
fn a_managed_key_rotates_with_age() {
    let Some(library) = faketime() else { return skip("the package faketime is missing") };
    let Some(bench) = Bench::new() else { return };
    let version = |name: &str| {
        let mut buffer = [0; 16];
        let len =
            rustix::fs::getxattr(bench.file(name), "user.ssefs.key_version", &mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let mount_later = |days: u32, options: &str| {
        let mut command = bench.mount_command(&["-o", options]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", format!("+{days}d"));
        // What waits for a time to pass waits for the real one.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        succeed(&mut command);
    };
    bench.mount(&[]);
    fs::write(bench.file("first"), b"first").unwrap();
    assert_eq!(version("first"), "1");
    bench.unmount();
    mount_later(89, "rw");
    fs::write(bench.file("young"), b"young").unwrap();
    assert_eq!(version("young"), "1", "rotated before its time");
    bench.unmount();
    mount_later(91, "rotation_days=0");
    fs::write(bench.file("never"), b"never").unwrap();
    assert_eq!(version("never"), "1", "rotated though told not to");
    bench.unmount();
    mount_later(91, "rw");
    fs::write(bench.file("second"), b"second").unwrap();
    assert_eq!((version("first"), version("second")), ("1".to_owned(), "2".to_owned()));
    bench.unmount();
    bench.mount(&[]);
    for name in ["first", "young", "never", "second"] {
        assert_eq!(fs::read_to_string(bench.file(name)).unwrap(), name);
    }
    bench.unmount();
}

/// The library that moves a program's clock; its own program waits for daemons to end.
pub fn faketime() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}
