//! The report of a rewrap: what was moved, what was there, what was left and why.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plan::KeyName;
use super::tally::Tally;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::format::VolumeId;

/// What there is to report.
pub struct Report {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is mounted, if it is.
    pub mount_point: Option<PathBuf>,
    /// What became of its files.
    pub tally: Tally,
    /// How many key slots of the volume went to a newer version.
    pub slots_moved: u64,
    /// The keys that open the volume no longer.
    pub retired: Vec<KeyName>,
    /// The keys that nothing needs any more and that open the volume still, as it is mounted.
    pub still_open: Vec<KeyName>,
    /// Whether it was told to stop.
    pub interrupted: bool,
}

impl Report {
    /// Prints it and says how the command ends.
    pub fn conclude(&self, backing: &Path, as_json: bool) -> Outcome {
        if as_json {
            output::line(&self.json(backing).to_string())?;
        } else {
            self.print()?;
        }
        if self.interrupted {
            return Err(Failure::new(
                Exit::Incomplete,
                "interrupted: the files that were not come to keep their key; run it again",
            ));
        }
        match self.tally.left_count() {
            0 => Ok(()),
            left => Err(Failure::new(
                Exit::Incomplete,
                format!("{}: {left} of its files were left as they were", backing.display()),
            )),
        }
    }

    fn json(&self, backing: &Path) -> Value {
        let tally = &self.tally;
        json!({
            "backing": backing.to_string_lossy(),
            "volume_id": self.volume.to_string(),
            "mount_point": self.mount_point.as_ref().map(|path| path.to_string_lossy()),
            "files": tally.files,
            "rewrapped": tally.rewrapped,
            "already_there": tally.already_there,
            "not_selected": tally.not_selected,
            "empty": tally.empty,
            "left": tally.left_count(),
            "left_by_reason": tally.left,
            "left_files": tally.examples,
            "key_slots_moved": self.slots_moved,
            "keys_retired": self.retired,
            "keys_to_retire": self.still_open,
            "interrupted": self.interrupted,
        })
    }

    fn print(&self) -> Outcome {
        let tally = &self.tally;
        output::line(&format!(
            "volume {}: {} files: {} rewrapped, {} there already, {} not meant, {} empty, {} left",
            self.volume,
            tally.files,
            tally.rewrapped,
            tally.already_there,
            tally.not_selected,
            tally.empty,
            tally.left_count()
        ))?;
        for left in tally.examples.iter().take(SHOWN) {
            let (path, reason) = (left.path.display(), left.reason.text());
            output::line(&format!("left ({reason}): {path}: {}", left.detail))?;
        }
        let more = tally.left_count().saturating_sub(SHOWN as u64);
        if more > 0 {
            output::line(&format!("left: {more} more, see --json"))?;
        }
        for key in &self.retired {
            output::line(&format!("key {key} opens this volume no longer"))?;
        }
        for key in &self.still_open {
            output::line(&format!(
                "key {key} wraps no file any more, but opens the volume for as long as it is \
                 mounted: run this again once it is not"
            ))?;
        }
        Ok(())
    }
}

const SHOWN: usize = 50;
