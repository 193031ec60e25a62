//! Which records are asked for.

use std::path::Path;

use super::body::escape_path;
use super::reader::{AuditRecord, Outcome};
use super::time::UtcTime;

/// Conditions that all hold for a record that passes; the default lets all pass.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Not before.
    pub since: Option<UtcTime>,
    /// Before.
    pub until: Option<UtcTime>,
    /// With this key, by its id, or by the alias that it was asked for with.
    pub key: Option<String>,
    /// By this user, by name or number.
    pub user: Option<String>,
    /// For this file.
    pub file: Option<FileFilter>,
    /// That ended so.
    pub outcome: Option<Outcome>,
    /// Of this name, in any case of letters.
    pub event: Option<String>,
}

/// A file, by id or by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFilter {
    /// The file's id in hexadecimal.
    Id(String),
    /// A path, escaped: in the mount, or from the root of the system with the mount point in it.
    Path(String),
}

impl Filter {
    /// Whether the record passes.
    pub fn matches(&self, record: &AuditRecord) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.key.as_ref().is_none_or(|key| record.names_key(key))
            && self.user.as_ref().is_none_or(|user| is_by(record, user))
            && self.file.as_ref().is_none_or(|file| file.is_of(record))
            && self
                .outcome
                .is_none_or(|outcome| record.is_about_keys() && record.outcome() == outcome)
            && self.event.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(record.event_name()))
    }
}

impl FileFilter {
    /// 32 hexadecimal digits are an id, all else is a path.
    pub fn new(text: &Path) -> Self {
        match text.to_str().filter(|text| text.len() == FILE_ID_DIGITS) {
            Some(id) if id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Self::Id(id.to_ascii_lowercase())
            }
            _ => Self::Path(escape_path(text)),
        }
    }

    fn is_of(&self, record: &AuditRecord) -> bool {
        match self {
            Self::Id(id) => record.file_id() == Some(id),
            Self::Path(path) => record.path().is_some_and(|recorded| {
                let recorded = recorded.trim_start_matches('/');
                let given = path.trim_start_matches('/');
                // With the mount point before it, at the edge of a name.
                given == recorded
                    || (path.starts_with('/')
                        && !recorded.is_empty()
                        && given.strip_suffix(recorded).is_some_and(|rest| rest.ends_with('/')))
            }),
        }
    }
}

fn is_by(record: &AuditRecord, user: &str) -> bool {
    let identity = record.identity();
    match user.parse::<u32>() {
        Ok(uid) => identity.uid == uid,
        Err(_) => identity.user_name.as_deref() == Some(user),
    }
}

const FILE_ID_DIGITS: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::lines::tests::log_of;
    use super::super::reader::AuditReader;
    use super::*;

    fn matching(filter: &Filter) -> Vec<u64> {
        let line = |seq: u64, second: u64, rest: &str| {
            format!(
                "{{\"eventTime\":\"2026-11-22T07:00:{second:02}.000000Z\",\
                 \"eventSource\":\"ssefs.kms\",\"seq\":{seq},{rest}}}\n"
            )
        };
        let text = [
            line(
                1,
                1,
                r#""eventName":"CreateKey","userIdentity":{"uid":0,"userName":"root"},
                "requestParameters":{"keyId":"k1"}"#,
            ),
            line(
                2,
                2,
                r#""eventName":"Decrypt","userIdentity":{"uid":1000,"userName":"alice"},
                "resources":[{"type":"AWS::KMS::Key","keyId":"k1"}],
                "requestParameters":{"path":"/a/b","fileId":"0123456789abcdef0123456789abcdef"}"#,
            ),
            line(
                3,
                3,
                r#""eventName":"Decrypt","userIdentity":{"uid":1001},
                "errorCode":"AccessDeniedException",
                "requestParameters":{"keyId":"k2","path":"/xa/b"}"#,
            ),
            line(
                4,
                4,
                r#""eventName":"Decrypt","userIdentity":{"uid":1001},
                "errorCode":"DisabledException","requestParameters":{"path":"/a"}"#,
            ),
        ];
        let text: String = text.iter().map(|line| line.replace("\n                ", "")).collect();
        let dir = log_of(&text);
        let reader = AuditReader::at(dir.path()).unwrap();
        let records = reader.records().map(Result::unwrap);
        records.filter(|record| filter.matches(record)).map(|record| record.seq()).collect()
    }

    #[test]
    fn each_condition() {
        let time = |text| UtcTime::parse(text);
        let all = Filter::default();
        assert_eq!(matching(&all), [1, 2, 3, 4]);
        let since = time("2026-11-22T07:00:02Z");
        assert_eq!(matching(&Filter { since, ..all.clone() }), [2, 3, 4]);
        assert_eq!(matching(&Filter { until: since, ..all.clone() }), [1]);
        for (key, found) in [("k1", vec![1, 2]), ("k2", vec![3]), ("k", vec![])] {
            assert_eq!(matching(&Filter { key: Some(key.into()), ..all.clone() }), found);
        }
        for (user, found) in [("alice", vec![2]), ("1001", vec![3, 4]), ("0", vec![1])] {
            assert_eq!(matching(&Filter { user: Some(user.into()), ..all.clone() }), found);
        }
        for (outcome, found) in
            [(Outcome::Success, vec![1, 2]), (Outcome::Denied, vec![3]), (Outcome::Error, vec![4])]
        {
            assert_eq!(matching(&Filter { outcome: Some(outcome), ..all.clone() }), found);
        }
        let event = Some("decrypt".to_owned());
        assert_eq!(matching(&Filter { event, ..all.clone() }), [2, 3, 4]);
        for (file, found) in [
            ("0123456789ABCDEF0123456789ABCDEF", vec![2]),
            ("/a/b", vec![2]),
            ("a/b", vec![2]),
            ("/mnt/private/a/b", vec![2]),
            ("/mnt/xa/b", vec![3]),
            ("b", vec![]),
            ("/a", vec![4]),
        ] {
            let file = Some(FileFilter::new(Path::new(file)));
            assert_eq!(matching(&Filter { file: file.clone(), ..all.clone() }), found, "{file:?}");
        }
    }
}
