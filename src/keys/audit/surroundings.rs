//! What the log takes from the machine around it: the id of its present start, and the system's
//! log, where the end of the chain is anchored. Tests put others in their place.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::{fs, io};

use super::frame::Link;
use super::time::UtcTime;
use data_encoding::HEXLOWER;

/// The machine as the log sees it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The kernel's random id of the machine's present start.
    pub boot_id: [u8; 16],
    /// The socket of the system's log.
    pub syslog: PathBuf,
}

impl Surroundings {
    /// Of this machine.
    pub fn of_this_machine() -> io::Result<Self> {
        let text = fs::read_to_string(BOOT_ID)?;
        let boot_id = uuid::Uuid::try_parse(text.trim()).map_err(io::Error::other)?;
        Ok(Self { boot_id: boot_id.into_bytes(), syslog: PathBuf::from("/dev/log") })
    }

    /// Tells the system's log how far the chain has come, so that its end is known outside. A
    /// log that is not there, or does not keep up, is no failure of ours.
    pub(super) fn anchor(&self, link: Link, log_id: &str, signer_id: &str) {
        let line = anchor_line(link, log_id, signer_id, UtcTime::now());
        let send = || -> io::Result<()> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to(line.as_bytes(), &self.syslog).map(drop)
        };
        if let Err(error) = send() {
            log::debug!("{}: the audit log is not anchored: {error}", self.syslog.display());
        }
    }
}

/// In the form of RFC 3164, 4.1: facility authpriv (10), severity notice (5).
fn anchor_line(link: Link, log_id: &str, signer_id: &str, time: UtcTime) -> String {
    let [_, month, day, hour, minute, second] = time.fields();
    let month = MONTHS[usize::try_from(month - 1).expect("one of twelve")];
    format!(
        "<85>{month} {day:2} {hour:02}:{minute:02}:{second:02} ssefs[{}]: \
         audit log {log_id}: record {} has the hash {}, signed by key {signer_id}",
        std::process::id(),
        link.seq,
        HEXLOWER.encode(&link.hash),
    )
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_anchor() {
        let time = UtcTime::parse("2026-02-03T04:05:06Z").unwrap();
        let line = anchor_line(Link { seq: 9, hash: [0xab; 32] }, "L", "K", time);
        let pid = std::process::id();
        assert_eq!(
            line,
            format!(
                "<85>Feb  3 04:05:06 ssefs[{pid}]: audit log L: record 9 has the hash {}, \
                 signed by key K",
                "ab".repeat(32)
            )
        );
    }

    #[test]
    fn this_machine_has_a_boot_id() {
        let [one, other] = [(); 2].map(|()| Surroundings::of_this_machine().unwrap().boot_id);
        assert!(one == other && one != [0; 16]);
    }
}
