//! The CPUs of the machine as the kernel counts them: it has a queue for each that it may ever
//! see, and sends a request to the queue of the CPU that the caller runs on.

use std::io;

/// CPUs by number, as `/sys` lists them: "0-3,8".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cpus(pub(super) Vec<u16>);

impl Cpus {
    /// All that there may be.
    pub(super) fn possible() -> io::Result<Self> {
        Self::listed("possible")
    }

    /// Those that run now.
    pub(super) fn online() -> io::Result<Self> {
        Self::listed("online")
    }

    fn listed(name: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}"))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name} CPUs are {text:?}"))
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut cpus = Vec::new();
        for range in text.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ranges_are_read() {
        assert_eq!(Cpus::parse("0\n"), Some(Cpus(vec![0])));
        assert_eq!(Cpus::parse("0-2,5,7-8\n"), Some(Cpus(vec![0, 1, 2, 5, 7, 8])));
        for text in ["", "a", "0-", "-1", "0,"] {
            assert_eq!(Cpus::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_machine_has_cpus() {
        let (possible, online) = (Cpus::possible().unwrap(), Cpus::online().unwrap());
        assert!(!online.0.is_empty() && online.0.iter().all(|cpu| possible.0.contains(cpu)));
    }
}
