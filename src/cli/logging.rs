//! The program's log: to standard error while there is one, in the background to a file or to
//! syslog. Which records are kept is set once; where they go changes when the process detaches.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use env_logger::Logger as Filter;
use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164};

use crate::fs::rfc_3339;

/// Starts logging to standard error. `filter` is in the form of `RUST_LOG`, which counts where
/// none is given; `verbose` is how often `-v` was.
pub fn start(verbose: u8, filter: Option<&str>) {
    let given = filter.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok());
    let filters = given.as_deref().unwrap_or(match verbose {
        0 => "warn,ssefs=info",
        1 => "info,ssefs=debug",
        _ => "debug,ssefs=trace",
    });
    let filter = env_logger::Builder::new().parse_filters(filters).build();
    log::set_max_level(filter.filter());
    let route = Mutex::new(Route { terminal: LevelFilter::Trace, sink: None });
    let output = OUTPUT.get_or_init(|| Output { filter, route });
    // A second start in one process is a test's, and keeps the first logger.
    let _ = log::set_logger(output);
    std::panic::set_hook(Box::new(|panic| log::error!("internal error: {panic}")));
}

/// From now on the log goes to `file`, else to syslog, else nowhere; until [`leave_terminal`],
/// warnings are also shown on standard error, and with `-v` everything is.
pub fn enter_background(file: Option<&Path>, verbose: bool) -> std::io::Result<()> {
    let sink = open_sink(file)?;
    if let Some(output) = OUTPUT.get() {
        let mut route = output.route();
        route.terminal = if verbose { LevelFilter::Trace } else { LevelFilter::Warn };
        route.sink = Some(sink);
    }
    Ok(())
}

/// Standard error is closed next.
pub fn leave_terminal() {
    if let Some(output) = OUTPUT.get() {
        output.route().terminal = LevelFilter::Off;
    }
}

fn open_sink(file: Option<&Path>) -> std::io::Result<Sink> {
    let Some(path) = file else {
        let format = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "ssefs".to_owned(),
            pid: std::process::id(),
        };
        let connected = syslog::unix(format);
        return Ok(connected.map_or(Sink::Nowhere, |logger| Sink::Syslog(Box::new(logger))));
    };
    match File::options().append(true).create(true).open(path) {
        Ok(file) => Ok(Sink::File(file)),
        Err(error) => {
            Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
    }
}

struct Output {
    filter: Filter,
    route: Mutex<Route>,
}

/// Where a record goes.
struct Route {
    /// What is shown on standard error.
    terminal: LevelFilter,
    sink: Option<Sink>,
}

enum Sink {
    File(File),
    Syslog(Box<syslog::Logger<syslog::LoggerBackend, Formatter3164>>),
    Nowhere,
}

impl Output {
    fn route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Output {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let mut route = self.route();
        // A log that cannot be written must not stop what is logged about.
        if record.level() <= route.terminal {
            let level = level_name(record);
            let _ = writeln!(std::io::stderr(), "ssefs: {level}: {}", record.args());
        }
        if let Some(sink) = &mut route.sink {
            let _ = sink.write(record);
        }
    }

    fn flush(&self) {}
}

impl Sink {
    fn write(&mut self, record: &Record<'_>) -> std::io::Result<()> {
        let message = record.args();
        match self {
            Self::File(file) => {
                let line = format!("{} {}: {message}\n", now(), level_name(record));
                file.write_all(line.as_bytes())
            }
            Self::Syslog(logger) => match record.level() {
                Level::Error => logger.err(message),
                Level::Warn => logger.warning(message),
                Level::Info => logger.info(message),
                Level::Debug | Level::Trace => logger.debug(message),
            }
            .map_err(std::io::Error::other),
            Self::Nowhere => Ok(()),
        }
    }
}

fn level_name(record: &Record<'_>) -> String {
    record.level().as_str().to_ascii_lowercase()
}

/// The present time in UTC, as RFC 3339 writes it.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    rfc_3339(since.map_or(0, |since| since.as_secs()))
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_gets_one_line_for_a_record() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = open_sink(Some(file.path())).unwrap();
        let mut record = Record::builder();
        let record = record.level(Level::Error);
        sink.write(&record.args(format_args!("block {} does not open", 7)).build()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.ends_with("Z error: block 7 does not open\n"), "{text}");
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let error = open_sink(Some(Path::new("/no such/log"))).err().unwrap();
        assert!(error.to_string().starts_with("/no such/log: "), "{error}");
    }
}
