//! `ssefs audit report`: the sums of the log, as aligned text, JSON, or a page.

use std::path::Path;

use serde_json::{Value, json};

use super::table::Table;
use super::{ReportArgs, ReportFormat, page, visible};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::keys::audit::{AuditReader, Counts, Filter, Span, Summary, UtcTime};

/// The command.
pub fn run(args: &ReportArgs, keystore: &Path, reader: &AuditReader) -> Outcome {
    let filter = Filter { since: args.period.since, until: args.period.until, ..Filter::default() };
    let summary = Summary::of(reader, &filter)?;
    let source = keystore.display().to_string();
    let text = match args.format {
        ReportFormat::Text => as_text(&summary, &source),
        ReportFormat::Json => format!("{:#}", as_json(&summary, &source)),
        ReportFormat::Html => page::render(&summary, &source, UtcTime::now()),
    };
    match &args.output {
        Some(path) => std::fs::write(path, text + "\n")
            .map_err(|error| Failure::new(Exit::Other, format!("{}: {error}", path.display()))),
        None => text.lines().try_for_each(output::line),
    }
}

/// A time to the second, or a dash.
pub(super) fn shown_time(time: Option<UtcTime>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let text = time.to_string();
    format!("{} {}", &text[..10], &text[11..19])
}

/// What the report covers, in words.
pub(super) fn period(summary: &Summary) -> String {
    match (summary.since, summary.until) {
        (None, None) => "the whole log".to_owned(),
        (Some(since), None) => format!("since {} UTC", shown_time(Some(since))),
        (None, Some(until)) => format!("until {} UTC", shown_time(Some(until))),
        (Some(since), Some(until)) => {
            format!("{} to {} UTC", shown_time(Some(since)), shown_time(Some(until)))
        }
    }
}

/// The name of a key, also where none was named.
pub(super) fn shown_key(key_id: &str) -> String {
    if key_id.is_empty() { "(no key)".to_owned() } else { visible(key_id) }
}

fn as_text(summary: &Summary, source: &str) -> String {
    let total = &summary.total;
    let mut lines = vec![
        format!("Use of keys in {}: {}", visible(source), period(summary)),
        format!(
            "{} uses ({} with the data key in memory), {} changes, {} queries, {} denied, {} \
             other errors",
            total.uses, total.from_cache, total.changes, total.queries, total.denied, total.errors
        ),
    ];
    let mut section = |title: &str, table: &Table| {
        if !table.is_empty() {
            lines.extend([String::new(), title.to_owned()]);
            lines.extend(table.lines(None));
        }
    };
    let mut keys = Table::new(&[
        "KEY", "USES#", "CACHED#", "CHANGES#", "DENIED#", "ERRORS#", "USERS#", "FIRST", "LAST",
    ]);
    for (key_id, key) in &summary.keys {
        let mut cells = vec![shown_key(key_id)];
        cells.extend(count_cells(&key.counts));
        cells.push(key.users.len().to_string());
        cells.extend(span_cells(key.span));
        keys.row(cells);
    }
    section("By key", &keys);
    let mut users = Table::new(&[
        "USER", "UID#", "USES#", "CACHED#", "CHANGES#", "DENIED#", "ERRORS#", "FILES#", "FIRST",
        "LAST",
    ]);
    for (uid, user) in &summary.users {
        let mut cells = vec![visible(&user.label), uid.to_string()];
        cells.extend(count_cells(&user.counts));
        cells.push(user.files.len().to_string());
        cells.extend(span_cells(user.span));
        users.row(cells);
    }
    section("By user", &users);
    let mut files = Table::new(&["USER", "USES#", "DENIED#", "ERRORS#", "FIRST", "LAST", "FILE"]);
    for user in summary.users.values() {
        for ((_, file_id), file) in &user.files {
            let mut cells = vec![visible(&user.label)];
            let Counts { uses, denied, errors, .. } = file.counts;
            cells.extend([uses, denied, errors].map(|count| count.to_string()));
            cells.extend(span_cells(file.span));
            let path = if file.path.is_empty() { file_id } else { &file.path };
            cells.push(visible(path));
            files.row(cells);
        }
    }
    section("Files by user", &files);
    let mut refusals = Table::new(&["TIME (UTC)", "USER", "EVENT", "ERROR", "KEY", "FILE"]);
    for refusal in &summary.refusals {
        refusals.row(vec![
            shown_time(Some(refusal.time)),
            visible(&refusal.user),
            visible(&refusal.event),
            visible(&refusal.code),
            shown_key(&refusal.key),
            visible(&refusal.path),
        ]);
    }
    section("Refused, the newest first", &refusals);
    let mut incidents = Table::new(&["RECORD#", "TIME (UTC)", "EVENT", "DETAILS"]);
    for incident in &summary.incidents {
        incidents.row(vec![
            incident.seq.to_string(),
            shown_time(Some(incident.time)),
            visible(&incident.name),
            visible(&incident.details),
        ]);
    }
    section("What the log tells of itself", &incidents);
    if summary.damaged_lines > 0 {
        lines.push(String::new());
        lines.push(damaged_note(summary));
    }
    lines.join("\n")
}

/// That lines could not be read.
pub(super) fn damaged_note(summary: &Summary) -> String {
    format!("{} lines are no records; see 'ssefs audit verify'", summary.damaged_lines)
}

fn count_cells(counts: &Counts) -> [String; 5] {
    let Counts { uses, from_cache, changes, denied, errors, .. } = counts;
    [uses, from_cache, changes, denied, errors].map(|count| count.to_string())
}

fn span_cells(span: Option<Span>) -> [String; 2] {
    [shown_time(span.map(|span| span.first)), shown_time(span.map(|span| span.last))]
}

fn as_json(summary: &Summary, source: &str) -> Value {
    let time = |time: Option<UtcTime>| time.map(|time| time.to_string());
    let sums = |counts: &Counts, span: Option<Span>| {
        json!({
            "uses": counts.uses,
            "fromCache": counts.from_cache,
            "changes": counts.changes,
            "queries": counts.queries,
            "denied": counts.denied,
            "errors": counts.errors,
            "first": time(span.map(|span| span.first)),
            "last": time(span.map(|span| span.last)),
        })
    };
    let with = |mut value: Value, more: &[(&str, Value)]| {
        for (name, more) in more {
            value[*name] = more.clone();
        }
        value
    };
    let keys = summary.keys.iter().map(|(key_id, key)| {
        let users =
            key.users.iter().map(|(uid, counts)| with(sums(counts, None), &[("uid", json!(uid))]));
        let more = [
            ("keyId", json!(Some(key_id).filter(|key_id| !key_id.is_empty()))),
            ("materialVersions", json!(key.versions)),
            ("users", users.collect()),
        ];
        with(sums(&key.counts, key.span), &more)
    });
    let users = summary.users.iter().map(|(uid, user)| {
        let files = user.files.iter().map(|((volume_id, file_id), file)| {
            let more = [
                ("volumeId", json!(volume_id)),
                ("fileId", json!(file_id)),
                ("path", json!(file.path)),
            ];
            with(sums(&file.counts, file.span), &more)
        });
        let more =
            [("uid", json!(uid)), ("userName", json!(user.label)), ("files", files.collect())];
        with(sums(&user.counts, user.span), &more)
    });
    let refusals = summary.refusals.iter().map(|refusal| {
        json!({
            "time": refusal.time.to_string(), "userName": refusal.user, "keyId": refusal.key,
            "eventName": refusal.event, "errorCode": refusal.code, "path": refusal.path,
        })
    });
    let incidents = summary.incidents.iter().map(|incident| {
        json!({
            "seq": incident.seq, "time": incident.time.to_string(), "eventName": incident.name,
            "details": incident.details,
        })
    });
    json!({
        "keystore": source,
        "since": time(summary.since),
        "until": time(summary.until),
        "total": sums(&summary.total, summary.span),
        "keys": keys.collect::<Vec<_>>(),
        "users": users.collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "incidents": incidents.collect::<Vec<_>>(),
        "damagedLines": summary.damaged_lines,
    })
}
