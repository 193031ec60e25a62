//! `SEEK_DATA` and `SEEK_HOLE` on a file that is being written through the kernel's cache.
//!
//! The kernel asks without sending first what it has gathered, so the answer would miss data
//! and a copy by extents would lose it. Here it is made to send: its pages of the file are
//! invalidated, which writes the dirty ones. That waits for write requests, so it happens on a
//! thread of its own, never on one that serves requests.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use fuser::{Errno, INodeNo, Notifier, ReplyLseek};

use crate::fs::{Handle, SeekTarget};

/// One such question.
pub(super) struct Question {
    pub(super) ino: INodeNo,
    pub(super) handle: Handle,
    pub(super) offset: i64,
    pub(super) target: SeekTarget,
    pub(super) reply: ReplyLseek,
}

/// The way to the thread that answers; it ends when this is dropped.
pub(super) struct SeekQueue {
    questions: Sender<Question>,
}

impl SeekQueue {
    /// Starts the thread. `notifier` is set once the session exists; no question comes before.
    pub(super) fn start(
        notifier: std::sync::Arc<OnceLock<Notifier>>,
        answer: impl Fn(Handle, i64, SeekTarget) -> Result<i64, Errno> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, asked) = channel();
        std::thread::Builder::new()
            .name("seek".to_owned())
            .spawn(move || serve(&asked, &notifier, answer))?;
        Ok(Self { questions })
    }

    /// Asks; the answer goes to the question's reply.
    pub(super) fn ask(&self, question: Question) {
        if let Err(unasked) = self.questions.send(question) {
            unasked.0.reply.error(Errno::EIO);
        }
    }
}

fn serve(
    asked: &Receiver<Question>,
    notifier: &OnceLock<Notifier>,
    answer: impl Fn(Handle, i64, SeekTarget) -> Result<i64, Errno>,
) {
    for Question { ino, handle, offset, target, reply } in asked {
        let sent = notifier.get().map(|notifier| notifier.inval_inode(ino, 0, 0));
        match sent {
            Some(Ok(())) => match answer(handle, offset, target) {
                Ok(found) => reply.offset(found),
                Err(errno) => reply.error(errno),
            },
            Some(Err(error)) => {
                log::error!("inode {ino}: the kernel's cached writes could not be had: {error}");
                reply.error(Errno::EIO);
            }
            None => reply.error(Errno::EIO),
        }
    }
}
