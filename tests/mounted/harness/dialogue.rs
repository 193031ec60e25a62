//! A program that is told statements and answers each with a line once it is done.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub struct Dialogue {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dialogue {
    /// Starts the program. What it complains of after a cut is not shown.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let input = process.stdin.take().expect("piped above");
        let output = BufReader::new(process.stdout.take().expect("piped above"));
        Ok(Self { process, input, output })
    }

    /// Tells statements, and waits for the line that the last of them answers.
    pub fn tell(&mut self, statements: &str, answer: &str) -> io::Result<()> {
        writeln!(self.input, "{statements}")?;
        self.input.flush()?;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the program has ended"));
            }
            if line.trim_end() == answer {
                return Ok(());
            }
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
