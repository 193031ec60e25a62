//! Kms mode as a company uses it: who may read which file, keys that are rotated, disabled and
//! retired while the data stays, and an audit trail that accounts for every use.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::harness::user::{ALICE, BOB, User};
use crate::harness::{
    Bench, Random, assert_errno, assert_same, needs_program, needs_root, pattern, succeed, wait_for,
};

const FINANCE: &str = "alias/finance";
/// What is promised for handles of a key that was disabled.
const REVOKED_WITHIN: Duration = Duration::from_secs(60);

/// A bench with a keystore and the ways to speak to it.
struct Company {
    bench: Bench,
    key: String,
}

impl Company {
    /// With one key, and mounted for all users.
    fn open(extra: &[&str]) -> Option<Self> {
        if !needs_root() {
            return None;
        }
        let bench = Bench::new()?;
        let created =
            succeed(&mut keystore(&bench, &["key", "create", "--json", "--alias", FINANCE]));
        let created: Value = serde_json::from_slice(&created.stdout).unwrap();
        let key = created["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
        let company = Self { bench, key };
        company.mount(extra);
        fs::set_permissions(company.bench.mnt(), Permissions::from_mode(0o777)).unwrap();
        Some(company)
    }

    fn mount(&self, extra: &[&str]) {
        let arguments = ["--mode", "kms", "--key-id", FINANCE, "-o", "allow_other,key_check=1"];
        self.bench.mount(&[&arguments, extra].concat());
    }

    fn key(&self, arguments: &[&str]) -> String {
        let output = succeed(&mut keystore(&self.bench, &[&["key"], arguments].concat()));
        String::from_utf8(output.stdout).unwrap()
    }

    fn grant(&self, user: u32, operations: &str) {
        let user = user.to_string();
        self.key(&["grant", "create", &self.key, "--user", &user, "--operations", operations]);
    }

    /// The events that a filter finds.
    fn events(&self, filter: &[&str]) -> Vec<Value> {
        let show = [&["audit", "show", "--json"], filter].concat();
        let output = succeed(&mut keystore(&self.bench, &show));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn verify(&self) {
        succeed(&mut keystore(&self.bench, &["audit", "verify"]));
    }
}

fn keystore(bench: &Bench, arguments: &[&str]) -> Command {
    let keystore = bench.keystore();
    let mut command = bench.ssefs(&["--keystore"]);
    command.arg(keystore).args(arguments);
    command
}

fn attribute(path: &Path, name: &str) -> String {
    let mut buffer = [0; 256];
    let len = rustix::fs::getxattr(path, name, &mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

fn make(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))
}

#[test]
fn a_company_shows_who_could_read_which_file_and_when() {
    let Some(company) = Company::open(&[]) else { return };
    let (alice, bob) = (User::ordinary(ALICE), User::ordinary(BOB));
    let (ledger, plan) = (company.bench.file("ledger"), company.bench.file("plan"));
    let figures = pattern(1, 70_000);

    // One is granted, the other is not, whatever the mode bits allow.
    assert_errno(alice.run(|| make(&ledger, &figures)), Errno::ACCESS);
    company.grant(ALICE, "Decrypt,GenerateDataKey");
    alice.run(|| make(&ledger, &figures)).unwrap();
    for _ in 0..3 {
        assert_same(&alice.run(|| fs::read(&ledger)).unwrap(), &figures, "alice reads");
        assert_errno(bob.run(|| fs::read(&ledger)), Errno::ACCESS);
    }
    assert_errno(bob.run(|| make(&company.bench.file("bob's"), b"x")), Errno::ACCESS);
    assert_errno(
        bob.run(|| OpenOptions::new().write(true).truncate(true).open(&ledger)),
        Errno::ACCESS,
    );

    // Rotate, and move what there is to the new version while it is in use.
    let mut held = alice.run(|| File::open(&ledger)).unwrap();
    company.key(&["rotate", &company.key]);
    alice.run(|| make(&plan, b"next year")).unwrap();
    assert_eq!(attribute(&ledger, "user.ssefs.key_version"), "1");
    assert_eq!(attribute(&plan, "user.ssefs.key_version"), "2");
    let backing = company.bench.backing();
    succeed(&mut keystore(&company.bench, &["rewrap", backing.to_str().unwrap()]));
    assert_eq!(attribute(&ledger, "user.ssefs.key_version"), "2");
    let mut read = Vec::new();
    held.read_to_end(&mut read).unwrap();
    assert_same(&read, &figures, "the handle goes on");

    // Disable: no opening any more, and soon no reading by who has it open.
    company.key(&["disable", &company.key]);
    assert_errno(alice.run(|| File::open(&plan)), Errno::NOKEY);
    let refused = wait_for(REVOKED_WITHIN, || {
        held.seek(SeekFrom::Start(0)).unwrap();
        held.read(&mut [0; 100]).is_err_and(|error| error.raw_os_error() == Some(libc::ENOKEY))
    });
    assert!(refused, "the handle can still be read");
    company.key(&["enable", &company.key]);
    assert_same(&alice.run(|| fs::read(&ledger)).unwrap(), &figures, "enabled again");
    drop(held);

    // Retire: not while files need it, unless it is meant so; and it can be taken back.
    let schedule = ["key", "schedule-deletion", &company.key, "--days", "7"];
    let refused = keystore(&company.bench, &schedule).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("files still need it"), "{message}");
    succeed(&mut keystore(&company.bench, &[&schedule[..], &["--force"]].concat()));
    assert_errno(alice.run(|| File::open(&plan)), Errno::NOKEY);
    company.key(&["cancel-deletion", &company.key]);
    assert_errno(alice.run(|| File::open(&plan)), Errno::NOKEY);
    company.key(&["enable", &company.key]);
    assert_eq!(alice.run(|| fs::read(&plan)).unwrap(), b"next year");
    company.bench.unmount();
    account_for_every_use(&company);
}

/// What the scenario must have left in the audit trail.
fn account_for_every_use(company: &Company) {
    company.verify();
    let by = |user: u32, path: &str, outcome: &str| {
        let user = user.to_string();
        let filter = ["--user", &user, "--file", path, "--outcome", outcome];
        let mut names: Vec<String> = company
            .events(&filter)
            .iter()
            .map(|event| event["eventName"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    // Made, read three times, held, read when enabled again.
    let expected = [&["Decrypt"; 5][..], &["GenerateDataKey"]].concat();
    assert_eq!(by(ALICE, "/ledger", "success"), expected);
    assert_eq!(by(ALICE, "/plan", "success"), ["Decrypt", "GenerateDataKey"]);
    assert_eq!(by(ALICE, "/ledger", "denied"), ["GenerateDataKey"]);
    assert_eq!(by(BOB, "/ledger", "denied"), ["Decrypt"; 4]);
    assert_eq!(by(BOB, "/bob's", "denied"), ["GenerateDataKey"]);
    assert_eq!(company.events(&["--user", &BOB.to_string(), "--outcome", "success"]).len(), 0);
    assert_eq!(by(ALICE, "/plan", "error"), ["Decrypt"; 3], "disabled, pending, disabled");
    for change in ["CreateKey", "CreateGrant", "RotateKeyOnDemand", "CancelKeyDeletion"] {
        assert_eq!(company.events(&["--event", change]).len(), 1, "{change}");
    }
    let report = succeed(&mut keystore(&company.bench, &["audit", "report", "--format", "json"]));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let of_user = |user: u32| {
        let users = report["users"].as_array().unwrap();
        users.iter().find(|found| found["uid"] == user).cloned().unwrap_or_default()
    };
    assert_eq!((&of_user(ALICE)["denied"], &of_user(BOB)["denied"]), (&1.into(), &5.into()));
    assert_eq!((&of_user(ALICE)["uses"], &of_user(BOB)["uses"]), (&8.into(), &0.into()));
}

#[test]
fn a_group_a_condition_and_a_denial_in_a_policy_hold_on_the_mount() {
    let Some(company) = Company::open(&["--context", "department=finance"]) else { return };
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[
            {{"Effect":"Allow","Principal":{{"User":"0"}},"Action":"kms:*","Resource":"*"}},
            {{"Effect":"Allow","Principal":{{"Group":"7777"}},"Action":"kms:Decrypt",
              "Condition":{{"StringEquals":{{"kms:EncryptionContext:department":"finance"}}}}}},
            {{"Effect":"Deny","Principal":{{"User":"{BOB}"}},"Action":"kms:Decrypt"}}]}}"#
    );
    let file = company.bench.private_file("policy.json", policy);
    company.key(&["policy", "put", &company.key, file.to_str().unwrap()]);
    let ledger = company.bench.file("ledger");
    make(&ledger, b"figures").unwrap();
    assert_errno(User::ordinary(ALICE).run(|| fs::read(&ledger)), Errno::ACCESS);
    let member = User::ordinary(ALICE).in_groups(&[7777]);
    assert_eq!(member.run(|| fs::read(&ledger)).unwrap(), b"figures");
    let denied = User::ordinary(BOB).in_groups(&[7777]);
    assert_errno(denied.run(|| fs::read(&ledger)), Errno::ACCESS);
    company.bench.unmount();
    company.mount(&["--context", "department=law"]);
    let contract = company.bench.file("contract");
    make(&contract, b"clauses").unwrap();
    assert_errno(member.run(|| fs::read(&contract)), Errno::ACCESS);
    assert_eq!(member.run(|| fs::read(&ledger)).unwrap(), b"figures");
    company.bench.unmount();
    company.verify();
}

#[test]
fn a_directory_names_the_key_of_what_is_made_below_it() {
    let Some(company) = Company::open(&[]) else { return };
    let created = company.key(&["create", "--json", "--alias", "alias/law"]);
    let created: Value = serde_json::from_str(&created).unwrap();
    let law = created["KeyMetadata"]["KeyId"].as_str().unwrap();
    let directory = company.bench.file("law");
    fs::create_dir_all(directory.join("deep/below")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let set =
        |name: &str| rustix::fs::setxattr(&directory, "user.ssefs.key_id", name.as_bytes(), flags);
    assert_errno(set("alias/none"), Errno::ACCESS);
    set("alias/law").unwrap();
    assert_eq!(attribute(&directory, "user.ssefs.key_id"), law);
    for (path, key) in [("law/deep/below/contract", law), ("ledger", &company.key)] {
        make(&company.bench.file(path), b"text").unwrap();
        assert_eq!(attribute(&company.bench.file(path), "user.ssefs.key_id"), *key);
    }
    // The alias moves on; what was made stays where it was, what is made follows the directory.
    company.key(&["alias", "move", "alias/law", &company.key]);
    company.key(&["disable", law]);
    assert_errno(File::open(company.bench.file("law/deep/below/contract")), Errno::NOKEY);
    assert_eq!(fs::read(company.bench.file("ledger")).unwrap(), b"text");
    company.bench.unmount();
}

#[test]
fn without_a_record_there_is_no_use() {
    if !needs_program("mount") {
        return;
    }
    let Some(company) = Company::open(&["--audit-sync", "always"]) else { return };
    let ledger = company.bench.file("ledger");
    make(&ledger, b"figures").unwrap();
    company.bench.unmount();
    // The keystore on a disk that is full.
    let (keystore, full) = (company.bench.keystore(), company.bench.directory("full"));
    let tmpfs = Unmounted(full.clone());
    succeed(
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m,mode=700", "none"]).arg(&full),
    );
    succeed(Command::new("cp").arg("-a").arg(format!("{}/.", keystore.display())).arg(&full));
    let mount = |extra: &[&str]| {
        let mut command = company.bench.ssefs(&["mount", "--mode", "kms", "--keystore"]);
        command.arg(&full).args(extra).arg(company.bench.backing()).arg(company.bench.mnt());
        succeed(&mut command);
    };
    mount(&["--key-id", FINANCE]);
    assert_eq!(fs::read(&ledger).unwrap(), b"figures");
    let mut filler = File::create(full.join("filler")).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    while filler.write_all(&[7]).is_ok() {}
    let mut refused = 0;
    for _ in 0..200 {
        match fs::read(&ledger) {
            Ok(content) => assert_eq!(content, b"figures"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused} of 200 openings were refused");
    drop(filler);
    fs::remove_file(full.join("filler")).unwrap();
    assert_eq!(fs::read(&ledger).unwrap(), b"figures", "there is room again");
    company.bench.unmount();
    let verify = |directory: &Path| {
        succeed(company.bench.ssefs(&["audit", "verify", "--keystore"]).arg(directory));
    };
    verify(&full);
    mount(&["--audit", "best-effort"]);
    let mut filler = File::create(full.join("filler")).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    while filler.write_all(&[7]).is_ok() {}
    for _ in 0..200 {
        assert_eq!(fs::read(&ledger).unwrap(), b"figures", "it is asked to go on");
    }
    drop(filler);
    fs::remove_file(full.join("filler")).unwrap();
    company.bench.unmount();
    verify(&full);
    drop(tmpfs);
}

/// Unmounts when the test ends, however it ends.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn bucket_keys_cost_detail_and_nothing_else() {
    let Some(company) = Company::open(&["--bucket-key", "--audit-level", "uses"]) else { return };
    for index in 0..50 {
        make(&company.bench.file(index.to_string()), &pattern(index, 5000)).unwrap();
    }
    company.key(&["rotate", &company.key]);
    make(&company.bench.file("50"), &pattern(50, 5000)).unwrap();
    company.bench.unmount();
    let made = company.events(&["--event", "GenerateDataKey", "--outcome", "success"]);
    let bucket_keys =
        made.iter().filter(|event| event["additionalEventData"]["bucketKeyId"].is_string()).count();
    assert_eq!(bucket_keys, 2, "one for 50 files, and one for the new version");
    // A mount without bucket keys opens them too.
    company.mount(&[]);
    for index in 0..=50 {
        let content = fs::read(company.bench.file(index.to_string())).unwrap();
        assert_same(&content, &pattern(index, 5000), "a file by a bucket key");
    }
    company.key(&["disable", &company.key]);
    assert_errno(File::open(company.bench.file("0")), Errno::NOKEY);
    company.key(&["enable", &company.key]);
    let backing = company.bench.backing();
    succeed(&mut keystore(&company.bench, &["rewrap", backing.to_str().unwrap()]));
    for index in 0..=50 {
        let file = company.bench.file(index.to_string());
        assert_eq!(attribute(&file, "user.ssefs.key_version"), "2");
        assert_same(&fs::read(&file).unwrap(), &pattern(index, 5000), "after the rewrap");
    }
    company.bench.unmount();
    company.verify();
}

#[test]
fn the_death_of_the_daemon_loses_no_record() {
    let Some(company) = Company::open(&[]) else { return };
    let ledger = company.bench.file("ledger");
    make(&ledger, b"figures").unwrap();
    let mut opened = 0;
    for round in 0..10 {
        for _ in 0..20 + round {
            assert_eq!(fs::read(&ledger).unwrap(), b"figures");
            opened += 1;
        }
        let daemon = rustix::process::Pid::from_raw(company.bench.daemon().cast_signed()).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        company.bench.wait_for_daemons();
        let mnt = company.bench.mnt();
        company.bench.until_unused(Command::new("umount").arg("-l").arg(mnt));
        company.mount(&[]);
    }
    company.bench.unmount();
    company.verify();
    let found = company.events(&["--file", "/ledger", "--event", "Decrypt"]);
    assert_eq!(found.len(), opened);
}

#[test]
fn a_mount_in_kms_mode_says_what_it_lacks() {
    let Some(bench) = Bench::new() else { return };
    let mount = |extra: &[&str]| bench.mount_command(&[&["--mode", "kms"], extra].concat());
    let message = bench.refused(&mut mount(&["--key-id", FINANCE]), 6);
    assert!(message.contains("ssefs key create"), "{message}");
    succeed(&mut keystore(&bench, &["key", "create", "--alias", FINANCE]));
    let message = bench.refused(&mut mount(&[]), 2);
    assert!(message.contains("--key-id"), "{message}");
    for (arguments, part) in [
        (&["--key-id", "alias/none"][..], "alias/none"),
        (&["--key-id", FINANCE, "--context", "ssefs:volume_id=x"], "ssefs:"),
        (&["--key-id", FINANCE, "--audit", "never"], "best-effort"),
        (&["--key-id", FINANCE, "-o", "key_check=61"], "1 to 60"),
    ] {
        let output = mount(arguments).output().unwrap();
        let message = crate::harness::bench::one_line(&output);
        assert!(!output.status.success() && message.contains(part), "{message}");
    }
    // An existing volume remembers its key.
    bench.mount(&["--mode", "kms", "--key-id", FINANCE]);
    fs::write(bench.file("f"), b"text").unwrap();
    bench.unmount();
    bench.mount(&["--mode", "kms"]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"text");
    bench.unmount();
    // A mount of another mode opens its files as well, with the same keystore.
    bench.mount(&[]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"text");
    fs::write(bench.file("g"), b"managed").unwrap();
    assert_eq!(attribute(&bench.file("g"), "user.ssefs.mode"), "managed");
    bench.unmount();
}

#[test]
fn kills_of_rotate_and_rewrap_lose_nothing() {
    let Some(company) = Company::open(&[]) else { return };
    let content = |index: u64| pattern(index, 3000);
    for index in 0..60 {
        make(&company.bench.file(index.to_string()), &content(index)).unwrap();
    }
    let mut random = Random::new(21);
    let backing = company.bench.backing();
    let rewrap = ["rewrap", "--json", "--quiet", backing.to_str().unwrap()];
    let rotate = ["key", "rotate", &company.key];
    let mut killed = 0;
    for round in 0..16 {
        for arguments in [&rotate[..], &rewrap[..]] {
            let mut command = keystore(&company.bench, arguments);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.below(90)));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
        }
        // Not mounted, every fourth time.
        if round % 4 == 3 {
            company.bench.unmount();
            succeed(&mut keystore(&company.bench, &rewrap));
            company.mount(&[]);
        }
        for index in 0..60 {
            let file = company.bench.file(index.to_string());
            let what = format!("round {round}, file {index}");
            assert_same(&fs::read(file).unwrap(), &content(index), &what);
        }
        company.verify();
    }
    assert!(killed > 8, "only {killed} kills struck");
    succeed(&mut keystore(&company.bench, &rotate));
    succeed(&mut keystore(&company.bench, &rewrap));
    let versions: Vec<String> = (0..60)
        .map(|index| attribute(&company.bench.file(index.to_string()), "user.ssefs.key_version"))
        .collect();
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
    company.bench.unmount();
    company.verify();
}
