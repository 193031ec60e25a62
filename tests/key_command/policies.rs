//! Who may do what: policies, their simulation, grants, and two users with a keystore each.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use rustix::process::getuid;
use serde_json::{Value, json};

use crate::bench::{Bench, KEY, KEYSTORE, USAGE, fed, first_column, refusal, succeed};

/// A user and a group that no system has.
const STRANGER: u32 = 54_321;
const CROWD: u32 = 54_322;

fn allow(principal: &Value, action: &Value) -> Value {
    json!({"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*"})
}

fn document(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

fn all_to_me() -> Value {
    allow(&json!({"User": getuid().as_raw()}), &json!("kms:*"))
}

#[test]
fn a_policy_is_put_and_comes_back_as_it_was() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let default: Value = serde_json::from_str(&bench.text("policy get alias/a")).unwrap();
    let owner = &default["Statement"][0];
    assert_eq!(owner["Principal"], json!({"User": getuid().as_raw().to_string()}));
    assert_eq!((&owner["Effect"], &owner["Action"]), (&json!("Allow"), &json!("kms:*")));

    let text = format!(" {}\n", document(&[all_to_me()]));
    let file = bench.file("policy", &text);
    let put = bench.json(&format!("policy put alias/a {file}"));
    assert_eq!(put, json!({"KeyId": key_id, "PolicyName": "default"}));
    let got = bench.json(&format!("policy get {key_id}"));
    assert_eq!(got, json!({"PolicyName": "default", "Policy": text}));
    let piped = document(&[all_to_me(), allow(&json!("*"), &json!("kms:DescribeKey"))]);
    bench.pipe("policy put alias/a -", piped.as_bytes());
    assert_eq!(bench.text("policy get alias/a").trim(), piped);
    let created = bench.json(&format!("create --policy {file}"));
    let other = created["KeyMetadata"]["KeyId"].as_str().unwrap();
    assert_eq!(bench.json(&format!("policy get {other}"))["Policy"], json!(text));
}

#[test]
fn a_policy_that_is_not_understood_or_locks_out_is_refused() {
    let bench = Bench::new();
    bench.key("alias/a");
    let before = bench.text("policy get alias/a");
    for (text, expected) in [
        ("{", "not JSON"),
        ("\u{0}", "not JSON"),
        (r#"{"Statement": []}"#, "Statement: is empty"),
        (&document(&[allow(&json!("*"), &json!("kms:Decript"))]), "kms:Decript"),
        (&document(&[allow(&json!({"AWS": "*"}), &json!("kms:*"))]), "known are User and Group"),
        (&" ".repeat(40_000), "more than"),
    ] {
        let file = bench.file("policy", text);
        for line in [format!("policy put alias/a {file}"), format!("create --policy {file}")] {
            let message = bench.refused(&line, USAGE);
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with(&file), "the file is not named: {message}");
        }
    }
    let locking = bench.file("locking", document(&[allow(&json!("*"), &json!("kms:Decrypt"))]));
    let message = bench.refused(&format!("policy put alias/a {locking}"), USAGE);
    assert!(message.starts_with("MalformedPolicyDocumentException: "), "{message}");
    assert!(message.contains("kms:PutKeyPolicy"), "{message}");
    bench.refused(&format!("create --policy {locking}"), USAGE);
    assert_eq!(bench.text("policy get alias/a"), before);
    assert_eq!(first_column(&bench.text("list")).len(), 1);
    bench.text(&format!("policy put alias/a {locking} --force"));
    let message = bench.refused("policy get alias/a", KEY);
    assert!(message.starts_with("AccessDeniedException: "), "{message}");
    assert!(message.contains("kms:GetKeyPolicy"), "{message}");
}

#[test]
fn a_policy_holds_on_the_command_line_too() {
    let bench = Bench::new();
    bench.key("alias/a");
    let blob = bench.pipe("encrypt alias/a --context dept=hr", b"secret");
    let deny = json!({"Sid": "hr only", "Effect": "Deny", "Principal": "*",
        "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
        "Condition": {"StringEquals": {"kms:EncryptionContext:dept": "hr"}}});
    let file = bench.file("policy", document(&[all_to_me(), deny]));
    bench.text(&format!("policy put alias/a {file}"));
    for line in ["decrypt --context dept=hr", "re-encrypt --to alias/a --from-context dept=hr"] {
        let words: Vec<_> = line.split_whitespace().collect();
        let message = refusal(&fed(&mut bench.command(&words), &blob), KEY, line);
        assert!(message.starts_with("AccessDeniedException: "), "{message}");
        assert!(message.contains("statement 2 (\"hr only\")"), "{message}");
    }
    let other = bench.pipe("encrypt alias/a --context dept=it", b"open");
    assert_eq!(bench.pipe("decrypt --context dept=it", &other), b"open");
}

#[test]
fn a_request_is_simulated_statement_by_statement() {
    let bench = Bench::new();
    bench.key("alias/a");
    let for_crowd = json!({"Sid": "crowd", "Effect": "Allow", "Principal": {"Group": [CROWD]},
        "Action": "kms:Decrypt",
        "Condition": {"StringLike": {"kms:EncryptionContext:dept": "h*"}}});
    let deny = json!({"Effect": "Deny", "Principal": {"User": "54323"}, "Action": "kms:*"});
    let file = bench.file("policy", document(&[all_to_me(), for_crowd, deny]));
    bench.text(&format!("policy put alias/a {file}"));
    let simulate = |rest: &str| {
        let line = format!("policy simulate alias/a --action Decrypt {rest}");
        (bench.json(&line), bench.text(&line))
    };
    let (answer, text) = simulate(&format!("--user {STRANGER} --group {CROWD} --context dept=hr"));
    assert_eq!(
        (&answer["EvalDecision"], &answer["EvalActionName"]),
        (&json!("allowed"), &json!("kms:Decrypt"))
    );
    assert_eq!(answer["DecidedBy"], json!({"Statement": 2, "Sid": "crowd"}));
    let applying: Vec<_> = answer["Statements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["Applies"].as_bool().unwrap())
        .collect();
    assert_eq!(applying, [false, true, false]);
    let first = text.lines().next().unwrap();
    assert_eq!(first, "Decrypt for user 54321: allowed by statement 2 (\"crowd\")");
    assert_eq!(text.lines().count(), 4, "{text}");

    let (answer, text) = simulate(&format!("--user {STRANGER} --group {CROWD}"));
    assert_eq!(answer["EvalDecision"], "implicitDeny");
    assert_eq!(answer["DecidedBy"], Value::Null);
    assert!(text.contains("its condition does not hold: StringLike"), "{text}");
    let (answer, text) = simulate(&format!("--user 54323 --group {CROWD} --context dept=hr"));
    assert_eq!(answer["EvalDecision"], "explicitDeny");
    assert!(text.contains("denied by statement 3"), "{text}");
    // With the user's own groups, and with a policy that is not put yet.
    let (answer, _) = simulate("--user root --context dept=hr");
    let expected = if getuid().is_root() { "allowed" } else { "implicitDeny" };
    assert_eq!(answer["EvalDecision"], expected);
    let open = bench.file("open", document(&[allow(&json!({"Group": "root"}), &json!("kms:De*"))]));
    let (answer, _) = simulate(&format!("--user root --policy {open}"));
    assert_eq!(answer["EvalDecision"], "allowed");
}

#[test]
fn who_may_do_what() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let decrypt =
        allow(&json!({"User": STRANGER, "Group": "no-such-group"}), &json!("kms:Decrypt"));
    let everybody = allow(&json!("*"), &json!("kms:DescribeKey"));
    let file = bench.file("policy", document(&[all_to_me(), decrypt, everybody]));
    bench.text(&format!("policy put alias/a {file}"));
    bench.text(&format!(
        "grant create alias/a --group {CROWD} --operations Encrypt --context-subset a=b"
    ));
    let answer = bench.json("policy simulate alias/a");
    assert_eq!(answer["KeyId"], json!(key_id));
    let rows = answer["Principals"].as_array().unwrap();
    let of = |principal: &Value| rows.iter().find(|row| row["Principal"] == *principal).unwrap();
    let stranger = of(&json!({"User": "54321"}));
    assert_eq!(stranger["Allowed"], json!(["Decrypt", "DescribeKey"]));
    let crowd = of(&json!({"Group": "54322"}));
    assert_eq!(crowd["Allowed"], json!(["DescribeKey"]));
    assert_eq!(crowd["AllowedInSomeContexts"], json!(["Encrypt"]));
    assert_eq!(of(&json!({"Group": "no-such-group"}))["Allowed"], json!([]));
    assert_eq!(of(&json!("*"))["Allowed"], json!(["DescribeKey"]));
    let text = bench.text("policy simulate alias/a");
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.contains("everything") && text.contains("(unknown to this system)"), "{text}");
    assert!(text.contains("everybody else"), "{text}");
}

#[test]
fn grants_are_made_listed_and_revoked() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let made = bench.json(&format!(
        "grant create alias/a --user {STRANGER} --operations Decrypt,DescribeKey --name books \
         --context-equals dept=hr"
    ));
    let grant = made["GrantId"].as_str().unwrap();
    assert_eq!((grant.len(), &made["KeyId"]), (64, &json!(key_id)));
    let text = bench.text(&format!("grant create alias/a --group {CROWD} --operations Encrypt"));
    assert!(text.contains("group 54322"), "{text}");
    let listed = bench.json("grant list alias/a");
    let first = &listed["Grants"][0];
    assert_eq!(first["GrantId"], json!(grant));
    assert_eq!((&first["Name"], &first["KeyId"]), (&json!("books"), &json!(key_id)));
    assert_eq!(first["GranteePrincipal"], json!({"User": "54321"}));
    assert_eq!(first["Operations"], json!(["Decrypt", "DescribeKey"]));
    assert_eq!(first["Constraints"], json!({"EncryptionContextEquals": {"dept": "hr"}}));
    assert_eq!(first["IssuingAccount"], json!(getuid().as_raw()));
    assert!(first["CreationDate"].as_str().unwrap().ends_with('Z'));
    let text = bench.text("grant list alias/a");
    assert_eq!(first_column(&text).len(), 2);
    assert!(text.contains("exactly dept=hr"), "{text}");

    let simulate =
        format!("policy simulate alias/a --user {STRANGER} --action Decrypt --context dept=hr");
    assert_eq!(bench.json(&simulate)["DecidedBy"], json!({"GrantId": grant}));
    let revoked = bench.json(&format!("grant revoke alias/a {grant}"));
    assert_eq!(revoked, json!({"GrantId": grant, "KeyId": key_id}));
    assert_eq!(bench.json(&simulate)["EvalDecision"], "implicitDeny");
    let message = bench.refused(&format!("grant revoke alias/a {grant}"), KEY);
    assert!(message.contains(grant) && message.contains(&key_id), "{message}");
    for (rest, expected) in [
        ("--user no-such-user --operations Decrypt", "knows no user no-such-user"),
        ("--user 007 --operations Decrypt", "is no user id"),
        ("--user * --operations Decrypt", "wildcard"),
        ("--user root --operations PutKeyPolicy", "PutKeyPolicy cannot be granted"),
        ("--user root --operations Decript", "'Decript' is no action: there are "),
        ("--user root --operations Decrypt --context-equals x", "NAME=VALUE"),
    ] {
        let message = bench.refused(&format!("grant create alias/a {rest}"), USAGE);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn each_user_has_a_keystore_and_none_the_other_s() {
    if !getuid().is_root() {
        eprintln!("SKIPPED each_user_has_a_keystore_and_none_the_other_s: needs root");
        return;
    }
    let bench = Bench::new();
    bench.key("alias/a");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.path(""), open.clone()).unwrap();
    let program = bench.path("ssefs");
    std::fs::copy(crate::bench::binary(), &program).unwrap();
    std::fs::set_permissions(&program, open).unwrap();
    let home = bench.path("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(STRANGER), Some(STRANGER)).unwrap();
    let as_stranger = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).uid(STRANGER).gid(STRANGER).current_dir(&home);
        command.env_clear().env("HOME", &home).env("RUST_LOG", "warn");
        command
    };
    let keystore = bench.path("keystore");
    let keystore = keystore.to_str().unwrap();
    for arguments in [&["key", "list"][..], &["key", "create"], &["key", "describe", "alias/a"]] {
        let arguments = [&["--keystore", keystore], arguments].concat();
        refusal(&as_stranger(&arguments).output().unwrap(), KEYSTORE, "root's keystore");
    }
    let made = succeed(&mut as_stranger(&["key", "create", "--alias", "alias/mine", "--json"]));
    let made: Value = serde_json::from_slice(&made).unwrap();
    let own = home.join(".local/share/ssefs");
    assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
    let policy = succeed(&mut as_stranger(&["key", "policy", "get", "alias/mine"]));
    let policy: Value = serde_json::from_slice(&policy).unwrap();
    assert_eq!(policy["Statement"][0]["Principal"], json!({"User": STRANGER.to_string()}));
    let key_id = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    assert!(bench.refused(&format!("describe {key_id}"), KEY).starts_with("NotFoundException: "));
}
