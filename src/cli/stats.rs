//! `ssefs stats`: the counters that a mount answers at its root.

use std::path::Path;

use rustix::io::Errno;
use serde_json::Value;

use super::args::StatsArgs;
use super::exit::{Exit, Failure, Outcome};
use super::output;

/// The command.
pub fn run(args: &StatsArgs) -> Outcome {
    let text = read(&args.mount_point)?;
    if args.json {
        return output::line(text.trim_end());
    }
    let report: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::new(Exit::Other, format!("{}: {error}", args.mount_point.display()))
    })?;
    let mut lines = Vec::new();
    flatten("", &report, &mut lines);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        output::line(&format!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// The daemon of a mount, as the mount itself tells it.
pub(super) fn daemon_pid(mount_point: &Path) -> Outcome<u32> {
    let report: Value = serde_json::from_str(&read(mount_point)?).map_err(|error| {
        Failure::new(Exit::Other, format!("{}: {error}", mount_point.display()))
    })?;
    let pid = report["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| Failure::new(Exit::Other, "the mount does not tell its daemon".to_owned()))
}

fn read(mount_point: &Path) -> Outcome<String> {
    let refused = |exit, problem: &dyn std::fmt::Display| {
        Failure::new(exit, format!("{}: {problem}", mount_point.display()))
    };
    let mut buf = vec![0; MAX_LEN];
    let len =
        rustix::fs::getxattr(mount_point, STATS_XATTR, &mut buf[..]).map_err(
            |errno| match errno {
                Errno::NODATA | Errno::OPNOTSUPP => {
                    refused(Exit::NotMounted, &"is not the root of an ssefs mount")
                }
                errno => refused(Exit::MountPoint, &errno),
            },
        )?;
    buf.truncate(len);
    String::from_utf8(buf).map_err(|error| refused(Exit::Other, &error))
}

/// Nested names are joined by dots.
fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = match prefix {
                    "" => name.clone(),
                    prefix => format!("{prefix}.{name}"),
                };
                flatten(&name, value, lines);
            }
        }
        Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}

const STATS_XATTR: &str = "user.ssefs.stats";
const MAX_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_counters_become_dotted_names() {
        let report = serde_json::json!({"nodes": 3, "cache": {"hits": 7, "ttl": "5 s"}});
        let mut lines = Vec::new();
        flatten("", &report, &mut lines);
        lines.sort();
        let expected = [("cache.hits", "7"), ("cache.ttl", "5 s"), ("nodes", "3")];
        assert_eq!(lines, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_directory_that_is_no_mount_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failure = read(dir.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::NotMounted);
        assert_eq!(read(Path::new("/no such")).unwrap_err().exit, Exit::MountPoint);
    }
}
