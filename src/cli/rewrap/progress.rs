//! Progress of long work on standard error: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A count of files that moves on.
pub struct Progress {
    bar: ProgressBar,
    /// Dropped to end the thread that writes lines.
    lines: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Out of `total` files; says nothing when `quiet`.
    pub fn start(total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant"));
        if quiet {
            return Self { bar, lines: None };
        }
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            return Self { bar, lines: None };
        }
        let (stop, stopped) = channel();
        let shown = bar.clone();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                eprintln!("ssefs: {}", line(&shown));
            }
        });
        Self { bar, lines: Some((stop, thread)) }
    }

    /// One more file is done.
    pub fn advance(&self) {
        self.bar.inc(1);
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

fn line(bar: &ProgressBar) -> String {
    let total = bar.length().unwrap_or(0);
    format!(
        "{} of {total} files, {:.0} per second, {} s to go",
        bar.position(),
        bar.per_sec(),
        bar.eta().as_secs()
    )
}

const BAR: &str = "{bar:40} {pos}/{len} files, {per_sec}, {eta} to go";
const LINE_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        let progress = Progress::start(7, true);
        progress.advance();
        progress.advance();
        assert!(line(&progress.bar).starts_with("2 of 7 files, "), "{}", line(&progress.bar));
        progress.finish();
    }
}
