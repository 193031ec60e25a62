//! What a process that died in a burst has left in the file `pending`: its records, which count
//! as all that were written before a key was used. Some of them may be in the log already, if it
//! died while it put them there. Whoever takes the lock puts the others into the log.

use rustix::fs::fdatasync;
use serde_json::json;

use super::appender::{Appender, failed};
use super::pending::{self, Expansion, PendingRecord};
use super::place::read_from;
use super::recovery::{REPAIRED, told_of_cut};
use crate::keys::error::KeyError;

impl Appender {
    /// Appends the records that are left in the file, and leaves none there.
    pub(super) fn take_in_pending(&mut self) -> Result<(), KeyError> {
        self.try_to_take_in().inspect_err(|_| {
            // They were promised to be on stable storage in a while, here as well as there.
            let _ = fdatasync(self.place().pending_file());
            if let Some(tail) = &self.tail {
                let _ = fdatasync(&tail.file);
            }
        })
    }

    fn try_to_take_in(&mut self) -> Result<(), KeyError> {
        let bytes = self.place().read_pending();
        let bytes = bytes.map_err(|error| failed(self.place(), self.tail(), error))?;
        if bytes.is_empty() {
            return Ok(());
        }
        match pending::records(&bytes) {
            Some((head, all)) => {
                let crashed = head.boot_id != self.surroundings.boot_id;
                let whole = pending::authentic(&head, &all, self.keystore.audit_key());
                let (whole, damaged) = all.split_at(whole);
                self.take_in(whole, crashed)?;
                match damaged.first() {
                    // Before a crash of the machine pages may have been written in any order.
                    Some(torn) if crashed => {
                        self.append_own(REPAIRED, &told_of_cut(torn.body()))?;
                    }
                    Some(_) => self.note_tampering("what waited to become a record was altered")?,
                    None => {}
                }
            }
            None => self.note_tampering("the file of what waits to become records was altered")?,
        }
        let cleared = self.place().clear_pending();
        cleared.map_err(|error| failed(self.place(), self.tail(), error))
    }

    fn take_in(&mut self, records: &[PendingRecord<'_>], crashed: bool) -> Result<(), KeyError> {
        let records = Expansion::of(records);
        let recent = self.tail().size.saturating_sub(pending::LONGEST_IN_LOG);
        let recent = read_from(&self.tail().file, recent);
        let recent = recent.map_err(|error| failed(self.place(), self.tail(), error))?;
        let left = &records[pending::in_log(&records, &recent)..];
        let Some((first, _)) = left.first() else { return Ok(()) };
        let reached = self.tail().link.seq;
        if *first > reached + 1 {
            let (from, to) = (reached + 1, first - 1);
            if crashed {
                let mut additional = told_of_cut(&[]);
                additional.insert("firstLost", json!(from));
                additional.insert("lastLost", json!(to));
                self.note_lost(to, &additional)?;
            } else {
                self.note_tampering(&format!("the records {from} to {to} are not there any more"))?;
            }
        }
        log::info!(
            "{}: {} records of a process that died are put into the audit log",
            self.path().display(),
            left.len()
        );
        self.append_all(left.iter(), |(_, body), out| {
            out.extend_from_slice(body);
            true
        })
    }
}
