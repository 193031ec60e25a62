//! `ssefs audit show`: records that pass a filter, as a table that fits the terminal, or as they
//! stand in the log.

use std::collections::VecDeque;

use super::table::{Table, terminal_width};
use super::{ShowArgs, visible};
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::keys::KeyError;
use crate::keys::audit::{AuditReader, AuditRecord};

/// The command.
pub fn run(args: &ShowArgs, reader: &AuditReader) -> Outcome {
    let filter = args.filter();
    let passes = |record: &Result<AuditRecord, KeyError>| match record {
        Ok(record) => filter.matches(record),
        Err(_) => true,
    };
    if let Some(last) = args.last {
        let mut records = VecDeque::new();
        for record in reader.records_backwards().filter(passes) {
            if records.len() == last {
                break;
            }
            if let Some(record) = readable(record)? {
                records.push_front(record);
            }
        }
        return print(args, records.into_iter().map(Ok));
    }
    print(args, reader.records().filter(passes).filter_map(|record| readable(record).transpose()))
}

/// A line that is no record is told of and passed over: `audit verify` says what it is.
fn readable(record: Result<AuditRecord, KeyError>) -> Result<Option<AuditRecord>, KeyError> {
    match record {
        Err(error @ KeyError::Damaged { .. }) => {
            eprintln!("ssefs: {error}; see 'ssefs audit verify'");
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn print(args: &ShowArgs, records: impl Iterator<Item = Result<AuditRecord, KeyError>>) -> Outcome {
    if args.json {
        for record in records {
            output::line(&record?.json)?;
        }
        return Ok(());
    }
    // Long logs are shown in parts, so that the first lines come at once.
    let mut table = Table::new(COLUMNS);
    let mut first = true;
    for record in records {
        table.row(row(&record?));
        if table.len() == ROWS_AT_ONCE {
            print_table(&table, first)?;
            table = Table::new(COLUMNS);
            first = false;
        }
    }
    if first || !table.is_empty() {
        print_table(&table, first)?;
    }
    Ok(())
}

fn print_table(table: &Table, with_head: bool) -> Outcome {
    let lines = table.lines(terminal_width());
    lines.iter().skip(usize::from(!with_head)).try_for_each(|line| output::line(line))
}

fn row(record: &AuditRecord) -> Vec<String> {
    let time = record.time.to_string();
    let outcome = match record.error_code() {
        None => "ok".to_owned(),
        Some(code) => code.trim_end_matches("Exception").to_owned(),
    };
    let about = match (record.path(), record.is_about_keys()) {
        (Some(path), _) => path.to_owned(),
        (None, true) => {
            let named = ["aliasName", "operation"].iter().find_map(|name| record.parameter(name));
            named.unwrap_or_default().to_owned()
        }
        (None, false) => own_details(record),
    };
    vec![
        format!("{} {}", &time[..10], &time[11..19]),
        visible(&record.identity().label()),
        visible(record.event_name()),
        visible(&outcome),
        visible(&record.key_id().unwrap_or("-").chars().take(8).collect::<String>()),
        visible(&about),
    ]
}

fn own_details(record: &AuditRecord) -> String {
    let details = ["finding", "reason", "bytesCut", "firstLost", "lastLost", "count"];
    let told = details.iter().filter_map(|name| Some((name, record.detail(name)?)));
    let told: Vec<String> = told
        .map(|(name, value)| match value.as_str() {
            Some(text) => text.to_owned(),
            None => format!("{name} {value}"),
        })
        .collect();
    told.join(", ")
}

const COLUMNS: &[&str] = &["TIME (UTC)", "USER", "EVENT", "OUTCOME", "KEY", "FILE"];
const ROWS_AT_ONCE: usize = 1000;
