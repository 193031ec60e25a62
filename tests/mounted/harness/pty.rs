//! A program on a terminal of its own, for what asks people: passphrases.
//!
//! An answer is typed only when the program has printed its question and switched echo off, as
//! a person would, so nothing depends on time.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::termios::{LocalModes, tcgetattr};

use super::{sys, wait_for};

/// A program that runs on a terminal.
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    program: Child,
}

impl Terminal {
    /// Starts the command on a new terminal.
    pub fn start(command: &mut Command) -> Self {
        let (keyboard, terminal) = sys::open_pty().unwrap();
        command.stdin(Stdio::from(terminal.try_clone().unwrap()));
        command.stdout(Stdio::from(terminal.try_clone().unwrap())).stderr(Stdio::from(terminal));
        sys::lead_session(command);
        let program = command.spawn().unwrap();
        // The command keeps its copies of the terminal, and with them the screen open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut source, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            // Reading from a terminal that nobody has open any more is an error, and the end.
            while let Ok(len @ 1..) = source.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..len]);
            }
        });
        Self { keyboard, screen, reader: Some(reader), program }
    }

    /// Waits for a question that is not echoed, and types the answer.
    #[track_caller]
    pub fn answer(&mut self, question: &str, answer: &str) {
        let asked = wait_for(LIMIT, || {
            let modes = tcgetattr(&self.keyboard).unwrap().local_modes;
            !modes.contains(LocalModes::ECHO) && self.screen().trim_end().ends_with(question)
        });
        assert!(asked, "never asked {question:?}, the screen shows {:?}", self.screen());
        rustix::io::write(&self.keyboard, format!("{answer}\n").as_bytes()).unwrap();
        let taken =
            wait_for(LIMIT, || !self.screen().trim_end().ends_with(question) || self.ended());
        assert!(taken, "the answer to {question:?} was not taken");
    }

    /// What has been printed and echoed so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).replace('\r', "")
    }

    /// Waits for the program's end; answers its status and all that was on the screen.
    pub fn finish(mut self) -> (ExitStatus, String) {
        assert!(wait_for(LIMIT, || self.ended()), "still running: {:?}", self.screen());
        let status = self.program.wait().unwrap();
        // A daemon in the background has let go of the terminal, so the reader meets its end.
        let reader = self.reader.take().expect("joined only here");
        let closed = wait_for(LIMIT, || reader.is_finished());
        assert!(closed, "somebody still holds the terminal");
        reader.join().unwrap();
        (status, self.screen())
    }

    fn ended(&mut self) -> bool {
        self.program.try_wait().unwrap().is_some()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

const LIMIT: Duration = Duration::from_secs(30);
