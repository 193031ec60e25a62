//! Raises the limits that the kernel sets for a FUSE mount and that only root may lift, in
//! `/sys/class/bdi`. Best effort: a mount without them works, only slower.

use std::path::PathBuf;

use super::attach::Device;

/// Larger read-ahead, and no cap on dirty pages beyond the machine's own. Call it when the
/// session runs.
pub(super) fn tune(device: Device) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let settings = PathBuf::from(format!("/sys/class/bdi/{}:{}", device.major, device.minor));
    for (name, value) in SETTINGS {
        if let Err(error) = std::fs::write(settings.join(name), value) {
            log::debug!("{}: {error}", settings.join(name).display());
        }
    }
}

/// Read-ahead of two requests, so that two threads serve one reader; `strict_limit` first, as
/// `max_ratio` means nothing to it.
const SETTINGS: [(&str, &str); 3] =
    [("read_ahead_kb", "2048"), ("strict_limit", "0"), ("max_ratio", "100")];
