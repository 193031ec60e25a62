//! The command line as scripts see it: every exit code with its one line, `inspect`, `stats`,
//! help and the log.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::bench::one_line;
use crate::harness::{Bench, kernel_settings, pattern, skip, succeed, wait_for};

fn output_of(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

fn stats(bench: &Bench) -> Value {
    let text = output_of(bench.ssefs(&["stats", "--json"]).arg(bench.mnt()));
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn inspected(bench: &Bench, path: &Path) -> Value {
    let text = output_of(bench.ssefs(&["inspect", "--json"]).arg(path));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn wrong_usage_is_2() {
    let Some(bench) = Bench::new() else { return };
    for (options, named) in [
        ("no_such_option", "'no_such_option'"),
        ("ttl=soon", "'ttl=soon'"),
        ("remount,ro", "'remount'"),
        ("mode=aes", "'kms'"),
        ("audit=never", "best-effort"),
    ] {
        let message = bench.refused(&mut bench.mount_command(&["-o", options]), 2);
        assert!(message.contains(named), "{message}");
    }
    for arguments in [&["mount"][..], &["mount", "only-one"], &["frobnicate"], &["--no-such"]] {
        let output = bench.ssefs(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?} failed in silence");
    }
    assert_eq!(fs::read_dir(bench.backing()).unwrap().count(), 0, "a volume was begun");
}

#[test]
fn a_bad_backing_directory_is_3() {
    let Some(bench) = Bench::new() else { return };
    let mount = |place: &str| {
        let mut command = bench.ssefs(&["mount", "--keystore"]);
        command.arg(bench.keystore()).arg(bench.path(place)).arg(bench.mnt());
        command
    };
    let message = bench.refused(&mut mount("missing"), 3);
    assert!(message.contains("missing: there is no such backing directory"), "{message}");
    fs::write(bench.path("file"), b"").unwrap();
    let message = bench.refused(&mut mount("file"), 3);
    assert!(message.contains("is not a directory"), "{message}");
    bench.directory("foreign");
    fs::write(bench.path("foreign/letter"), b"plain text").unwrap();
    let message = bench.refused(&mut mount("foreign"), 3);
    assert!(message.contains("is not a volume"), "{message}");
    assert_eq!(fs::read_dir(bench.path("foreign")).unwrap().count(), 1, "something was added");
    let message = bench.refused(&mut bench.mount_command(&["-o", "ro"]), 3);
    assert!(message.contains("read-only"), "{message}");
    assert!(!bench.keystore().exists(), "a keystore was made for nothing");
}

#[test]
fn a_bad_mount_point_is_4() {
    let Some(bench) = Bench::new() else { return };
    let mount = |place: &str| {
        let mut command = bench.ssefs(&["mount", "--keystore"]);
        command.arg(bench.keystore()).arg(bench.backing()).arg(bench.path(place));
        command
    };
    let message = bench.refused(&mut mount("missing"), 4);
    assert!(message.contains("there is no such mount point"), "{message}");
    fs::write(bench.path("file"), b"").unwrap();
    let message = bench.refused(&mut mount("file"), 4);
    assert!(message.contains("is not a directory"), "{message}");
    bench.directory("full");
    fs::write(bench.path("full/file"), b"").unwrap();
    let message = bench.refused(&mut mount("full"), 4);
    assert!(message.contains("nonempty"), "{message}");
    let message = bench.refused(&mut mount("backing"), 4);
    assert!(message.contains("same directory"), "{message}");
    fs::create_dir(bench.path("full/inner")).unwrap();
    let mut inside = bench.ssefs(&["mount", "--keystore"]);
    inside.arg(bench.keystore()).arg(bench.path("full/inner")).arg(bench.path("full"));
    let message = bench.refused(inside.args(["-o", "nonempty"]), 4);
    assert!(message.contains("hide"), "{message}");
    bench.mount(&[]);
    bench.directory("second");
    let mut onto = bench.ssefs(&["mount", "--keystore"]);
    onto.arg(bench.keystore()).arg(bench.path("second")).arg(bench.mnt());
    let message = bench.refused(&mut onto, 4);
    assert!(message.contains("is mounted there already"), "{message}");
    bench.unmount();
}

#[test]
fn a_volume_in_use_is_8_and_names_its_holder() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    let (holder, second) = (bench.daemon(), bench.directory("second"));
    let mut command = bench.ssefs(&["mount", "--keystore"]);
    command.arg(bench.keystore()).arg(bench.backing()).arg(&second);
    let message = bench.refused(&mut command, 8);
    for part in [&format!("process {holder}"), bench.mnt().to_str().unwrap()] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    bench.unmount();
    succeed(&mut command);
    bench.until_unused(bench.ssefs(&["unmount"]).arg(&second));
    bench.wait_for_daemons();
    let note = fs::read_to_string(bench.backing().join(".ssefs/lock")).unwrap();
    assert_eq!(note, "", "the lock names a holder that has let go");
}

#[test]
fn an_unknown_or_damaged_volume_is_9() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), b"content").unwrap();
    bench.unmount();
    let path = bench.backing().join(".ssefs/volume.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replacen("\"format_version\": 1", "\"format_version\": 2", 1);
    assert_ne!(newer, text, "the version was not found in {text}");
    let cases = [newer, text[..text.len() / 2].to_owned(), String::new(), "{}".to_owned()];
    for (round, content) in cases.iter().enumerate() {
        fs::write(&path, content).unwrap();
        let message = bench.refused(&mut bench.mount_command(&[]), 9);
        assert!(round > 0 || message.contains("version 2"), "{message}");
    }
    fs::write(&path, text).unwrap();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    bench.unmount();
}

#[test]
fn a_busy_mount_is_10_and_none_at_all_is_11() {
    let Some(bench) = Bench::new() else { return };
    let none = |path: &Path| bench.refused(bench.ssefs(&["unmount"]).arg(path), 11);
    assert!(none(&bench.mnt()).contains("there is no ssefs mount"));
    assert!(none(&bench.path("missing")).contains("missing"));
    assert!(none(Path::new("/proc")).contains("type proc"));
    let message = bench.refused(bench.ssefs(&["stats"]).arg(bench.mnt()), 11);
    assert!(message.contains("not the root of an ssefs mount"), "{message}");
    bench.mount(&[]);
    fs::create_dir(bench.file("d")).unwrap();
    let message = bench.refused(bench.ssefs(&["stats"]).arg(bench.file("d")), 11);
    assert!(message.contains("not the root"), "{message}");
    assert!(none(&bench.file("d")).contains("there is no ssefs mount"));
    let open = fs::File::create(bench.file("f")).unwrap();
    let message = bench.refused(bench.ssefs(&["unmount"]).arg(bench.mnt()), 10);
    assert!(message.contains("in use") && message.contains("--lazy"), "{message}");
    open.write_all_at(b"still here", 0).unwrap();
    let lazy = bench.ssefs(&["unmount", "--lazy"]).arg(bench.mnt()).output().unwrap();
    assert!(lazy.status.success(), "{lazy:?}");
    open.write_all_at(b"after all", 0).unwrap();
    drop(open);
    bench.wait_for_daemons();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"after alle");
    bench.unmount();
}

#[test]
fn inspect_shows_headers_without_a_key() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), pattern(1, 70_000)).unwrap();
    fs::write(bench.file("empty"), b"").unwrap();
    let message = bench.refused(bench.ssefs(&["inspect"]).arg(bench.file("f")), 3);
    assert!(message.contains("through a mount"), "{message}");
    bench.unmount();
    fs::rename(bench.keystore(), bench.path("away")).unwrap();
    let report = inspected(&bench, &bench.backing().join("f"));
    for (name, expected) in [
        ("format_version", Value::from(1)),
        ("algorithm", "AES-256-GCM".into()),
        ("mode", "managed".into()),
        ("key_version", 1.into()),
        ("size", 70_000.into()),
        ("recorded_size", 70_000.into()),
        // Eighteen blocks of which two lie past the first tag page.
        ("backing_size", (4096 * 2 + 70_000).into()),
        ("may_have_holes", false.into()),
    ] {
        assert_eq!(report[name], expected, "{name}");
    }
    for name in ["volume_id", "file_id", "key_id", "wrapped_dek", "created"] {
        assert!(report[name].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    }
    let text = output_of(bench.ssefs(&["inspect"]).arg(bench.backing().join("f")));
    for name in ["volume_id", "file_id", "key_id", "mode", "algorithm"] {
        let value = report[name].as_str().expect("text, as shown above");
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        assert!(line.is_some_and(|line| line.ends_with(value)), "{name} in {text}");
    }
    assert_eq!(inspected(&bench, &bench.backing().join("empty"))["size"], 0);
    let mut both = bench.ssefs(&["inspect", "--json"]);
    let text = output_of(both.arg(bench.backing().join("f")).arg(bench.backing().join("empty")));
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn inspect_names_what_is_wrong() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), pattern(1, 5000)).unwrap();
    bench.unmount();
    let header = fs::read(bench.backing().join("f")).unwrap();
    let mut newer = header.clone();
    // The version follows the magic of eight bytes.
    newer[8] = 2;
    for (content, expected) in [
        (&b"Dear reader, this is a letter."[..], "not an ssefs file"),
        (&pattern(3, 9000), "not an ssefs file"),
        (&header[..1000], "truncated header: 1000 bytes"),
        (&newer, "format version 2"),
    ] {
        fs::write(bench.path("bad"), content).unwrap();
        for json in [&["inspect"][..], &["inspect", "--json"]] {
            let message = bench.refused(bench.ssefs(json).arg(bench.path("bad")), 9);
            assert!(message.contains("bad: ") && message.contains(expected), "{message}");
        }
    }
    let message = bench.refused(bench.ssefs(&["inspect"]).arg(bench.path("missing")), 3);
    assert!(message.contains("missing"), "{message}");
    // One that cannot be shown hides none of the others.
    let mut command = bench.ssefs(&["inspect", "--json"]);
    command.arg(bench.path("bad")).arg(bench.backing().join("f"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["size"], 5000);
}

#[test]
fn stats_move_with_what_is_done() {
    let Some(bench) = Bench::new() else { return };
    // Nothing is kept by the kernel, so that each opening asks the daemon.
    bench.mount(&["-o", "cache_entries=2,cache_ttl=1,ttl=0"]);
    let start = stats(&bench);
    assert_eq!(start["dek_cache"]["capacity"], 2);
    assert_eq!(start["dek_cache"]["ttl_s"], 1);
    let counter = |name: &str| stats(&bench)["dek_cache"][name].as_u64().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(bench.file(name), name).unwrap();
    }
    let closed = wait_for(Duration::from_secs(10), || stats(&bench)["open_files"] == 0);
    assert!(closed, "{}", stats(&bench));
    assert!(counter("evictions") >= 1, "three keys in a cache of two");
    let misses = counter("misses");
    fs::read(bench.file("a")).unwrap();
    assert_eq!(counter("misses"), misses + 1, "the oldest key was still there");
    let swept = wait_for(Duration::from_secs(20), || counter("entries") == 0);
    assert!(swept, "keys outlive cache_ttl: {}", stats(&bench));
    assert!(counter("expired") >= 1);
    let text = output_of(bench.ssefs(&["stats"]).arg(bench.mnt()));
    for name in ["dek_cache.hits", "dek_cache.misses", "nodes", "operations.opens"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in {text}");
    }
    bench.unmount();
    bench.mount(&["-o", "ttl=0"]);
    let closed = || stats(&bench)["open_files"] == 0;
    fs::read(bench.file("a")).unwrap();
    assert!(wait_for(Duration::from_secs(10), closed), "{}", stats(&bench));
    let (hits, misses) = (counter("hits"), counter("misses"));
    assert_eq!(misses, 1);
    fs::read(bench.file("a")).unwrap();
    assert!(wait_for(Duration::from_secs(10), closed), "{}", stats(&bench));
    assert_eq!((counter("hits"), counter("misses")), (hits + 1, 1), "the cache was not used");
    bench.unmount();
}

/// Who waits for a part of a file does not wait for a MiB around it.
#[test]
fn a_long_read_comes_in_requests_of_128_kib() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    let content = pattern(1, 4 << 20);
    fs::write(bench.file("f"), &content).unwrap();
    let file = fs::File::open(bench.file("f")).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let reads = || stats(&bench)["operations"]["reads"].as_u64().unwrap();
    let before = reads();
    assert!(fs::read(bench.file("f")).unwrap() == content);
    let count = reads() - before;
    assert!((32..=64).contains(&count), "{count} requests for 4 MiB");
    drop(file);
    bench.unmount();
}

#[test]
fn a_directory_is_opened_without_a_request_and_listed_again_without_any() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&["-o", "default_permissions"]);
    fs::create_dir(bench.file("d")).unwrap();
    for index in 0..100 {
        fs::write(bench.file(format!("d/{index}")), b"").unwrap();
    }
    let list = || fs::read_dir(bench.file("d")).unwrap().count();
    assert_eq!(list(), 100);
    let count = |name: &str| stats(&bench)["operations"][name].as_u64().unwrap();
    let read = count("directories_read");
    assert!(read > 0);
    assert_eq!(list(), 100);
    assert_eq!((count("directories_read"), count("directories_opened")), (read, 0));
    fs::write(bench.file("d/more"), b"").unwrap();
    assert_eq!(list(), 101);
    bench.unmount();
}

#[test]
fn the_kernel_reads_ahead_as_far_as_it_is_told() {
    let Some(bench) = Bench::new() else { return };
    for (options, wanted) in [(&[][..], 768), (&["-o", "read_ahead=64"][..], 64)] {
        bench.mount(options);
        let setting = kernel_settings(bench.mnt().as_ref()).join("read_ahead_kb");
        if let Err(error) = fs::read_to_string(&setting) {
            return skip(&format!("{}: {error}", setting.display()));
        }
        // Otherwise the kernel only takes less than its own default.
        let may_be_raised = fs::File::options().write(true).open(&setting).is_ok();
        let wanted = if may_be_raised { wanted } else { wanted.min(128) }.to_string();
        let is_set = || fs::read_to_string(&setting).is_ok_and(|told| told.trim() == wanted);
        let set = wait_for(Duration::from_secs(10), is_set);
        assert!(set, "{options:?}: {:?}, not {wanted}", fs::read_to_string(&setting));
        bench.unmount();
    }
}

#[test]
fn help_is_there_for_every_command() {
    let Some(bench) = Bench::new() else { return };
    for (arguments, mentioned) in [
        (&["--help"][..], &["mount", "unmount", "inspect", "stats", "Examples"][..]),
        (
            &["mount", "--help"],
            &["--mode", "--key-file", "--key-fd", "--passphrase", "--foreground", "--keystore"],
        ),
        (&["unmount", "--help"], &["--lazy", "MOUNTPOINT"]),
        (&["umount", "--help"], &["--lazy", "MOUNTPOINT"]),
        (&["inspect", "--help"], &["--json", "FILE"]),
        (&["stats", "--help"], &["--json", "MOUNTPOINT"]),
    ] {
        let text = output_of(&mut bench.ssefs(arguments));
        for word in mentioned {
            assert!(text.contains(word), "{arguments:?} says nothing of {word}");
        }
    }
    let version = output_of(&mut bench.ssefs(&["--version"]));
    assert_eq!(version.trim(), format!("ssefs {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_log_goes_where_it_is_sent_and_says_more_when_asked() {
    let Some(bench) = Bench::new() else { return };
    let log_of = |arguments: &[&str]| {
        let log = bench.path("log");
        let _ = fs::remove_file(&log);
        bench.mount(&[&["-o", &format!("log_file={}", log.display())], arguments].concat());
        fs::write(bench.file("f"), b"content").unwrap();
        bench.unmount();
        fs::read_to_string(log).unwrap()
    };
    let usual = log_of(&[]);
    assert!(usual.contains("unmounted"), "{usual:?}");
    assert!(!usual.contains(" debug: ") && !usual.contains(" trace: "), "{usual}");
    let more = log_of(&["-vv"]);
    assert!(more.contains(" debug: ") || more.contains(" trace: "), "{more}");
    let warnings_only = log_of(&["-o", "log=warn"]);
    assert_eq!(warnings_only, "");
    let nowhere = ["-o", "log_file=/no/such/directory/log"];
    let output = bench.mount_command(&nowhere).output().unwrap();
    assert!(!output.status.success());
    assert!(one_line(&output).contains("/no/such/directory/log"));
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = bench.ssefs(&["stats"]);
    let output = command.arg(bench.mnt()).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn unmount_waits_for_a_daemon_whose_mount_has_another_source_name() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&["-o", "fsname=elsewhere"]);
    std::fs::write(bench.mnt().join("f"), b"x").unwrap();
    let output = bench.ssefs(&["unmount"]).arg(bench.mnt()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(bench.daemons().is_empty(), "the daemon still runs");
}
