//! The report of a check.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::tally::Tally;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::format::VolumeId;

/// What there is to report.
pub struct Report {
    pub backing: PathBuf,
    pub volume: VolumeId,
    /// Who has it mounted, if it is.
    pub holder: Option<String>,
    pub headers_only: bool,
    pub repair: bool,
    pub tally: Tally,
    /// What is wrong with the volume's own files.
    pub metadata: Vec<MetadataFinding>,
    pub duration: Duration,
    /// Earlier epochs that did not end cleanly.
    pub unclean_epochs: usize,
    /// Whether they were taken for clean in the end.
    pub epochs_cleared: bool,
    pub interrupted: bool,
}

/// Something wrong in `.ssefs`.
#[derive(Debug, serde::Serialize)]
pub struct MetadataFinding {
    pub path: &'static str,
    pub what: String,
}

impl Report {
    /// Prints it and says how the command ends.
    pub fn conclude(&self, as_json: bool) -> Outcome {
        if as_json {
            output::line(&self.json().to_string())?;
        } else {
            self.print()?;
        }
        let at = self.backing.display();
        let (tally, failed) =
            (&self.tally, |exit, what: String| Err(Failure::new(exit, format!("{at}: {what}"))));
        let damaged = tally.damaged + self.metadata.len() as u64;
        match (damaged, tally.not_checked_count(), self.tally.repaired) {
            (1.., _, _) => failed(Exit::Damaged, format!("{damaged} of its files are damaged")),
            _ if self.interrupted => {
                failed(Exit::NotChecked, "interrupted: not all of it was checked".to_owned())
            }
            (0, left @ 1.., _) => {
                failed(Exit::NotChecked, format!("{left} of its files could not be checked"))
            }
            (0, 0, count @ 1..) => {
                failed(Exit::Repaired, format!("{count} of its files were repaired"))
            }
            (0, 0, 0) => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let tally = &self.tally;
        json!({
            "backing": self.backing.to_string_lossy(),
            "volume_id": self.volume.to_string(),
            "mounted_by": self.holder,
            "headers_only": self.headers_only,
            "repair": self.repair,
            "files": tally.files,
            "bytes": tally.bytes,
            "empty": tally.empty,
            "ok": tally.sound,
            "needs_recovery": tally.to_recover,
            "repaired": tally.repaired,
            "in_use": tally.in_use,
            "damaged": tally.damaged,
            "not_checked": tally.not_checked_count(),
            "not_checked_by_reason": tally.not_checked,
            "volume_findings": self.metadata,
            "findings": tally.findings,
            "findings_left_out": tally.findings_left_out,
            "repairs": tally.repairs,
            "salvaged": tally.salvaged,
            "unclean_epochs": self.unclean_epochs,
            "epochs_cleared": self.epochs_cleared,
            "interrupted": self.interrupted,
            "seconds": self.duration.as_secs_f64(),
            "bytes_per_second": self.rate(),
        })
    }

    fn print(&self) -> Outcome {
        let tally = &self.tally;
        for finding in &self.metadata {
            let MetadataFinding { path, what } = finding;
            output::line(&format!(
                "damaged: {path}: {what}; restore it from a backup of this volume"
            ))?;
        }
        if self.epochs_cleared && self.unclean_epochs > 0 {
            let count = self.unclean_epochs;
            output::line(&format!("repaired: .ssefs/epochs.json: {count} epochs are clean now"))?;
        }
        if let Some(holder) = &self.holder {
            output::line(&format!("the volume is in use by {holder}; it was only read"))?;
        }
        output::line(&format!(
            "volume {}: {} files, {}: {} ok, {} empty, {} to recover, {} repaired, {} in use, {} \
             damaged, {} not checked",
            self.volume,
            tally.files,
            HumanBytes(tally.bytes),
            tally.sound,
            tally.empty,
            tally.to_recover,
            tally.repaired,
            tally.in_use,
            tally.damaged,
            tally.not_checked_count()
        ))?;
        let what = if self.headers_only { "headers alone" } else { "all blocks" };
        output::line(&format!(
            "{what} in {:.1} s, {} per second",
            self.duration.as_secs_f64(),
            HumanBytes(self.rate())
        ))
    }

    fn rate(&self) -> u64 {
        (self.tally.bytes as f64 / self.duration.as_secs_f64().max(0.001)) as u64
    }
}

/// A volume whose own files do not let it be opened.
pub fn unopened(backing: &Path, finding: &MetadataFinding, as_json: bool) -> Outcome {
    let at = backing.display();
    if as_json {
        let report = json!({
            "backing": backing.to_string_lossy(),
            "volume_findings": [finding],
        });
        output::line(&report.to_string())?;
    }
    let MetadataFinding { path, what } = finding;
    let what = format!("{at}: {path}: {what}; restore it from a backup of this volume");
    Err(Failure::new(Exit::Damaged, what))
}
