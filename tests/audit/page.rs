//! The report as a page, in a browser without a screen: everything that the log tells is seen,
//! and nothing in it, not even the names of files, does anything.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{program, skip};

/// A keystore whose log holds two weeks of three users, made up, with names that try to break
/// out of the page.
fn made_up(keystore: &Path) {
    const USERS: [&str; 3] = ["alice", "bob", "<script>document.title='hacked'</script>"];
    const PATHS: [&str; 4] = [
        "/reports/2026/q3.ods",
        "/payroll/october.ods",
        "/<script>document.body.innerHTML='hacked'</script>",
        "/\\\"><img src=x onerror=document.title='hacked'>.ods",
    ];
    const KEYS: [&str; 2] =
        ["b7c2f3ce-6d4a-4c39-9a43-0d2f8f4cbb10", "0f4e1c52-93f1-44c8-8f0e-7a3f6f2f9d21"];
    let mut text = String::new();
    let mut number = 0_u64;
    for day in 1..=14 {
        for hour in 7..19 {
            let busy = (day * 7 + hour * 3) % 5 + (12_i32 - hour).abs() / 3;
            for event in 0..6 - busy.min(5) {
                number += 1;
                let user = number % 7 % 3;
                let outcome = match number {
                    number if number.is_multiple_of(41) => ",\"errorCode\":\"DisabledException\"",
                    _ if user == 2 && day > 9 => ",\"errorCode\":\"AccessDeniedException\"",
                    _ => "",
                };
                let index = |count: u64| usize::try_from(number % count).unwrap();
                writeln!(
                    text,
                    "{{\"eventVersion\":\"1.0\",\"eventTime\":\
                     \"2026-11-{day:02}T{hour:02}:{:02}:00.000000Z\",\
                     \"eventSource\":\"ssefs.kms\",\"eventName\":\"{}\",\"userIdentity\":\
                     {{\"userName\":\"{}\",\"uid\":{}}},\"requestParameters\":{{\"path\":\"{}\",\
                     \"volumeId\":\"v\",\"fileId\":\"{:032x}\"}},\"resources\":[{{\"type\":\
                     \"AWS::KMS::Key\",\"keyId\":\"{}\"}}],\"readOnly\":true{outcome},\
                     \"additionalEventData\":{{\"keyMaterialVersion\":{},\"cacheHit\":{}}},\
                     \"seq\":{number}}}",
                    event * 9,
                    if number.is_multiple_of(11) { "GenerateDataKey" } else { "Decrypt" },
                    USERS[usize::try_from(user).unwrap()],
                    1000 + user,
                    PATHS[index(4)],
                    number % 4,
                    KEYS[usize::from(number.is_multiple_of(5))],
                    1 + day / 8,
                    !number.is_multiple_of(11),
                )
                .unwrap();
            }
        }
    }
    fs::create_dir_all(keystore.join("audit")).unwrap();
    fs::write(keystore.join("audit/audit-00000001.jsonl"), text).unwrap();
}

fn render(keystore: &Path) -> PathBuf {
    let page = keystore.join("report.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssefs"));
    command.arg("--keystore").arg(keystore).args(["audit", "report", "--format", "html", "-o"]);
    let output = command.arg(&page).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

fn chromium(scratch: &Path, arguments: &[&str], page: &Path) -> Vec<u8> {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--hide-scrollbars", "--window-size=1200,2600"]);
    command.arg(format!("--user-data-dir={}", scratch.join("profile").display()));
    command.args(arguments).arg(format!("file://{}", page.display())).env("HOME", scratch);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_browser_shows_all_of_it_and_runs_none_of_it() {
    if !program("chromium") {
        return skip("the program chromium is missing");
    }
    let scratch = tempfile::tempdir().unwrap();
    made_up(scratch.path());
    let page = render(scratch.path());
    let dom = String::from_utf8(chromium(scratch.path(), &["--dump-dom"], &page)).unwrap();
    assert!(dom.contains("<title>Use of keys</title>"), "no name has become a script");
    assert!(!dom.contains("<script") && !dom.contains("<img"), "no name has become an element");
    for shown in ["alice", "&lt;script&gt;", "october.ods", "b7c2f3ce", "Over time, by 6 hours"] {
        assert!(dom.contains(shown), "{shown} is not on the page");
    }
    assert_eq!(dom.matches("<svg").count(), 6);
    // One row of the body for each key, user and file, as the browser has understood them.
    let after = |title: &str| dom.split_once(title).unwrap().1.split_once("</table>").unwrap().0;
    let rows = |title: &str| after(title).matches("<tr>").count() - 1;
    assert_eq!((rows("<h2>Keys"), rows("<h2>Users"), rows("<h2>Files of alice")), (2, 3, 4));

    let picture = scratch.path().join("page.png");
    let argument = format!("--screenshot={}", picture.display());
    chromium(scratch.path(), &[&argument], &page);
    let bytes = fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 50_000, "{} bytes", bytes.len());
    if let Some(kept) = std::env::var_os("SSEFS_AUDIT_PICTURES") {
        fs::copy(&picture, Path::new(&kept).join("light.png")).unwrap();
        fs::copy(&page, Path::new(&kept).join("report.html")).unwrap();
    }
}
