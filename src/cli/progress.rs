//! Progress of long work on standard error: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// What there is to do.
#[derive(Debug, Clone, Copy)]
pub enum Total {
    /// So many files, which take much the same time each.
    Files(u64),
    /// So many bytes in so many files.
    Bytes { bytes: u64, files: u64 },
}

/// Work that moves on.
pub struct Progress {
    bar: ProgressBar,
    total: Total,
    files: Arc<AtomicU64>,
    /// Dropped to end the thread that writes lines.
    lines: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Out of `total`; says nothing when `quiet`.
    pub fn start(total: Total, quiet: bool) -> Self {
        let files = Arc::new(AtomicU64::new(0));
        let (len, template) = match total {
            Total::Files(files) => (files, FILES_BAR),
            Total::Bytes { bytes, .. } => (bytes, BYTES_BAR),
        };
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::hidden());
        let done = Arc::clone(&files);
        let style = ProgressStyle::with_template(template).expect("the template is a constant");
        bar.set_style(style.with_key(
            "files",
            move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                // The bar shows what it can; a writer that fails shows nothing.
                let _ = write!(out, "{}", done.load(Ordering::Relaxed));
            },
        ));
        let mut progress = Self { bar, total, files, lines: None };
        if quiet {
            return progress;
        }
        if std::io::stderr().is_terminal() {
            progress.bar.set_draw_target(ProgressDrawTarget::stderr());
            return progress;
        }
        let (stop, stopped) = channel();
        let (bar, files) = (progress.bar.clone(), Arc::clone(&progress.files));
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                eprintln!("ssefs: {}", line(&bar, total, &files));
            }
        });
        progress.lines = Some((stop, thread));
        progress
    }

    /// One more file is done.
    pub fn advance(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
        if let Total::Files(_) = self.total {
            self.bar.inc(1);
        }
    }

    /// So many more bytes are done.
    pub fn advance_bytes(&self, bytes: u64) {
        if let Total::Bytes { .. } = self.total {
            self.bar.inc(bytes);
        }
    }

    /// Does what writes to the terminal while the bar is out of its way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some((stop, thread)) = self.lines {
            drop(stop);
            if thread.join().is_err() {
                log::error!("the thread that shows the progress panicked");
            }
        }
        self.bar.finish_and_clear();
    }
}

fn line(bar: &ProgressBar, total: Total, files: &AtomicU64) -> String {
    let (per_second, eta) = (bar.per_sec(), bar.eta().as_secs());
    match total {
        Total::Files(total) => {
            format!(
                "{} of {total} files, {per_second:.0} per second, {eta} s to go",
                bar.position()
            )
        }
        Total::Bytes { bytes, files: total } => format!(
            "{} of {}, {} of {total} files, {} per second, {eta} s to go",
            HumanBytes(bar.position()),
            HumanBytes(bytes),
            files.load(Ordering::Relaxed),
            HumanBytes(per_second as u64),
        ),
    }
}

const FILES_BAR: &str = "{bar:40} {pos}/{len} files, {per_sec}, {eta} to go";
const BYTES_BAR: &str = "{bar:40} {binary_bytes}/{binary_total_bytes}, {files} files, \
                         {binary_bytes_per_sec}, {eta} to go";
const LINE_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn said(progress: &Progress) -> String {
        line(&progress.bar, progress.total, &progress.files)
    }

    #[test]
    fn a_line_tells_how_far_it_is() {
        let progress = Progress::start(Total::Files(7), true);
        progress.advance();
        progress.advance();
        assert!(said(&progress).starts_with("2 of 7 files, "), "{}", said(&progress));
        progress.finish();
        let progress = Progress::start(Total::Bytes { bytes: 3 << 20, files: 2 }, true);
        progress.advance();
        progress.advance_bytes(2 << 20);
        let said = said(&progress);
        assert!(said.starts_with("2.00 MiB of 3.00 MiB, 1 of 2 files, "), "{said}");
        progress.finish();
    }
}
