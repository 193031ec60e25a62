//! Standard output of the commands that report. A reader that has had enough, as `head` has,
//! ends the program quietly; any other failure to write is told.

use std::io::{ErrorKind, Write, stdout};

use super::exit::{Exit, Failure, Outcome};

/// Prints one line.
pub fn line(text: &str) -> Outcome {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Exit::Other, format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// The failures of a command that goes on after one: the first is what it ends with, the others
/// are told as they come.
#[derive(Default)]
pub struct Failures {
    first: Option<Failure>,
}

impl Failures {
    /// One more.
    pub fn add(&mut self, failure: Failure) {
        match self.first {
            None => self.first = Some(failure),
            Some(_) => eprintln!("ssefs: {}", failure.message),
        }
    }

    /// What the command ends with.
    pub fn outcome(self) -> Outcome {
        self.first.map_or(Ok(()), Err)
    }
}
