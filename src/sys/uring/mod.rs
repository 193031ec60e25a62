//! io_uring (io_uring_setup(2)) as far as FUSE over io_uring needs it: commands to `/dev/fuse`
//! that carry a [`Slot`] of memory, and slots passed between threads.
//!
//! The invariant: a slot is either owned by the program or by the kernel. A command takes it, its
//! completion gives it back, and nothing can reach its memory in between. A ring that is dropped
//! while the kernel still owns slots leaves their memory mapped for ever, so the kernel never
//! writes into memory that serves something else.

mod abi;
mod slot;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::abi::{
    COMMIT_AND_FETCH, ENTER_GETEVENTS, FEAT_SINGLE_MMAP, OFF_SQES, Params, REGISTER,
    REGISTER_SEND_MSG_RING, SETUP, SQE_BYTES, SqeBytes,
};
use crate::sys::mapping::Mapping;

pub use self::slot::Slot;

/// Submissions and completions of one thread. `T` travels with each slot.
///
/// It belongs to the thread that made it: the kernel takes submissions from no other.
pub struct Ring<T: Send> {
    fd: Arc<OwnedFd>,
    /// Head and tail of both queues, and the completions.
    queues: Mapping,
    sqes: Mapping,
    params: Params,
    /// Submissions written but not yet handed to the kernel.
    unsubmitted: u32,
    /// Slots that the kernel owns through this ring.
    outstanding: usize,
    /// Submissions for which there was no room.
    waiting: VecDeque<SqeBytes>,
    of_one_thread: PhantomData<*mut T>,
}

/// The way to a ring from other threads.
pub struct RingAddress<T: Send> {
    fd: Arc<OwnedFd>,
    /// A ring takes slots of its own kind only.
    takes: PhantomData<fn(T)>,
}

/// What a ring has to tell.
pub enum Event<T: Send> {
    /// The kernel has filled the slot with a request.
    Ready(Slot<T>),
    /// Another thread passed the slot on.
    Handed(Slot<T>),
    /// The kernel gave the slot back without a request, and uses it no more.
    Ended(Slot<T>, io::Error),
    /// Another thread called [`RingAddress::wake`].
    Woken,
}

impl<T: Send> Ring<T> {
    /// A ring for `entries` submissions at a time, a power of two, for the calling thread.
    ///
    /// # Errors
    /// `ENOSYS`, `EPERM` and the like where the kernel does not offer io_uring to this process.
    pub fn new(entries: u32) -> io::Result<Self> {
        let mut params = Params::asking_for(SETUP);
        // SAFETY: the kernel reads and writes `params`, which lives through the call, and no more.
        let raw = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut params) };
        let raw = RawFd::try_from(checked(raw)?).expect("a descriptor is an int");
        // SAFETY: the call made this descriptor for the caller, so nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        if params.features & FEAT_SINGLE_MMAP == 0 {
            return Err(rustix::io::Errno::NOSYS.into());
        }
        let queues = Mapping::of_ring(fd.as_fd(), params.queues_bytes(), 0)?;
        let sqes = params.sq_entries as usize * SQE_BYTES;
        let sqes = Mapping::of_ring(fd.as_fd(), sqes, OFF_SQES)?;
        Ok(Self {
            fd: Arc::new(fd),
            queues,
            sqes,
            params,
            unsubmitted: 0,
            outstanding: 0,
            waiting: VecDeque::new(),
            of_one_thread: PhantomData,
        })
    }

    /// The way to this ring from other threads.
    pub fn address(&self) -> RingAddress<T> {
        RingAddress { fd: Arc::clone(&self.fd), takes: PhantomData }
    }

    /// How many slots the kernel owns through this ring.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Offers the slot to a FUSE connection, to be filled with a request
    /// (`FUSE_IO_URING_CMD_REGISTER`). `device` must be a `/dev/fuse` and stay open.
    pub fn register(&mut self, device: &impl AsFd, slot: Slot<T>) {
        let (iov, count) = slot.iov();
        let command = abi::fuse_command(slot.queue(), 0);
        let user_data = slot.into_user_data();
        self.push(abi::command(
            device.as_fd().as_raw_fd(),
            REGISTER,
            iov,
            count,
            &command,
            user_data,
        ));
        self.outstanding += 1;
    }

    /// Answers the request `commit_id` that the slot was filled with, from what now stands in the
    /// slot, and offers the slot for the next one (`FUSE_IO_URING_CMD_COMMIT_AND_FETCH`).
    pub fn commit(&mut self, device: &impl AsFd, commit_id: u64, slot: Slot<T>) {
        let command = abi::fuse_command(slot.queue(), commit_id);
        let user_data = slot.into_user_data();
        let sqe =
            abi::command(device.as_fd().as_raw_fd(), COMMIT_AND_FETCH, 0, 0, &command, user_data);
        self.push(sqe);
        self.outstanding += 1;
    }

    /// Hands over what was pushed and waits until there is something to tell.
    pub fn wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    /// Hands over what was pushed.
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// The next thing to tell, if there is one.
    pub fn next_event(&mut self) -> Option<Event<T>> {
        let head = self.counter(self.params.cq_off.head);
        let at = head.load(Ordering::Relaxed);
        if at == self.counter(self.params.cq_off.tail).load(Ordering::Acquire) {
            return None;
        }
        let index = (at & (self.params.cq_entries - 1)) as usize;
        let cqe = self.params.cq_off.cqes as usize + index * abi::CQE_BYTES;
        let user_data = self.queues.read_u64(cqe);
        let result = self.queues.read_u32(cqe + 8).cast_signed();
        head.store(at.wrapping_add(1), Ordering::Release);
        if user_data == WAKE {
            return Some(Event::Woken);
        }
        let handed = user_data & HANDED != 0;
        // SAFETY: every value but `WAKE` that reaches a completion came from `into_user_data`,
        // through a command of this ring or through `RingAddress::hand`, with at most `HANDED`
        // added; the kernel completes each once, and so it is taken back once.
        let slot = unsafe { Slot::from_user_data(user_data & !HANDED) };
        if handed {
            return Some(Event::Handed(slot));
        }
        self.outstanding -= 1;
        if result < 0 {
            return Some(Event::Ended(slot, io::Error::from_raw_os_error(-result)));
        }
        Some(Event::Ready(slot))
    }

    fn push(&mut self, sqe: SqeBytes) {
        let tail = self.counter(self.params.sq_off.tail);
        let at = tail.load(Ordering::Relaxed);
        let taken = self.counter(self.params.sq_off.head).load(Ordering::Acquire);
        if at.wrapping_sub(taken) == self.params.sq_entries || !self.waiting.is_empty() {
            self.waiting.push_back(sqe);
            return;
        }
        let index = (at & (self.params.sq_entries - 1)) as usize;
        self.sqes.write(index * SQE_BYTES, &sqe);
        // Without an index array the kernel takes the entries in their own order.
        self.counter(self.params.sq_off.tail).store(at.wrapping_add(1), Ordering::Release);
        self.unsubmitted += 1;
    }

    fn enter(&mut self, wanted: u32) -> io::Result<()> {
        loop {
            let more = self.unsubmitted;
            let wanted = if self.waiting.is_empty() { wanted } else { 0 };
            // SAFETY: takes no pointers but the ring's own, which live as long as `self`; what the
            // submissions point to is owned by the kernel from here on, see `Slot`.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_io_uring_enter,
                    self.fd.as_raw_fd(),
                    more,
                    wanted,
                    ENTER_GETEVENTS,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            match checked(done) {
                Ok(done) => self.unsubmitted -= u32::try_from(done).unwrap_or(more).min(more),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    // Completions have to be taken first.
                    Some(libc::EBUSY | libc::EAGAIN) if self.has_event() => return Ok(()),
                    Some(libc::EBUSY | libc::EAGAIN) => continue,
                    _ => return Err(error),
                },
            }
            let had_to_wait = std::mem::take(&mut self.waiting);
            if had_to_wait.is_empty() && self.unsubmitted == 0 {
                return Ok(());
            }
            had_to_wait.into_iter().for_each(|sqe| self.push(sqe));
            if self.has_event() && self.waiting.is_empty() && self.unsubmitted == 0 {
                return Ok(());
            }
        }
    }

    /// Whether there is something to tell.
    pub fn has_event(&self) -> bool {
        self.events() > 0
    }

    /// How much there is to tell.
    pub fn events(&self) -> u32 {
        let head = self.counter(self.params.cq_off.head).load(Ordering::Relaxed);
        self.counter(self.params.cq_off.tail).load(Ordering::Acquire).wrapping_sub(head)
    }

    fn counter(&self, offset: u32) -> &AtomicU32 {
        self.queues.counter(offset as usize)
    }
}

impl<T: Send> RingAddress<T> {
    /// Passes the slot to the ring's thread, which finds [`Event::Handed`].
    ///
    /// # Errors
    /// The slot comes back when the ring does not take it.
    pub fn hand(&self, slot: Slot<T>) -> Result<(), (Slot<T>, io::Error)> {
        let user_data = slot.into_user_data();
        self.send(user_data | HANDED).map_err(|error| {
            // SAFETY: made by `into_user_data` above, and the kernel refused to pass it on.
            (unsafe { Slot::from_user_data(user_data) }, error)
        })
    }

    /// Makes the ring's thread find [`Event::Woken`].
    pub fn wake(&self) -> io::Result<()> {
        self.send(WAKE)
    }

    fn send(&self, user_data: u64) -> io::Result<()> {
        let sqe = abi::message(self.fd.as_raw_fd(), user_data);
        // SAFETY: the kernel reads the one submission, which lives through the call.
        let sent = unsafe {
            libc::syscall(libc::SYS_io_uring_register, -1, REGISTER_SEND_MSG_RING, sqe.as_ptr(), 1)
        };
        checked(sent).map(|_| ())
    }
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What no slot has as its number.
const WAKE: u64 = 0;
/// Added to the number of a slot that one thread passed to another; its address is even.
const HANDED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_travels_between_threads_and_is_there_once() {
        let Ok(mut here) = Ring::<u32>::new(4) else {
            println!("skipped: no io_uring here");
            return;
        };
        let address = here.address();
        let other = std::thread::spawn(move || {
            let mut slot = Slot::new(8192, 3, 7_u32).unwrap();
            slot.parts_mut().1[8191] = 42;
            address.hand(slot).map_err(|(_, error)| error).unwrap();
            address.wake().unwrap();
        });
        let mut found = Vec::new();
        while found.len() < 2 {
            here.wait().unwrap();
            while let Some(event) = here.next_event() {
                found.push(match event {
                    Event::Handed(slot) => {
                        assert_eq!((slot.queue(), *slot.extra()), (3, 7));
                        assert_eq!(slot.payload()[8191], 42);
                        "slot"
                    }
                    Event::Woken => "woken",
                    Event::Ready(_) | Event::Ended(..) => "nonsense",
                });
            }
        }
        other.join().unwrap();
        assert_eq!(found, ["slot", "woken"]);
        assert_eq!(here.outstanding(), 0);
    }

    #[test]
    fn a_command_that_the_device_refuses_gives_its_slot_back() {
        let Ok(mut ring) = Ring::<u8>::new(1) else {
            println!("skipped: no io_uring here");
            return;
        };
        let zero = std::fs::File::open("/dev/zero").unwrap();
        // More than the queue has room for, so that some have to wait.
        for number in 0..5 {
            ring.register(&zero, Slot::new(4096, 0, number).unwrap());
        }
        assert_eq!(ring.outstanding(), 5);
        let mut ended = Vec::new();
        while ring.outstanding() > 0 {
            ring.wait().unwrap();
            while let Some(event) = ring.next_event() {
                let Event::Ended(slot, error) = event else { panic!("not refused") };
                assert!(error.raw_os_error().is_some());
                ended.push(*slot.extra());
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_ring_that_is_gone_takes_no_slot() {
        let Ok(file) = std::fs::File::open("/dev/null") else { return };
        let address = RingAddress { fd: Arc::new(file.into()), takes: PhantomData };
        let (slot, _) = address.hand(Slot::new(4096, 1, "mine").unwrap()).unwrap_err();
        assert_eq!(*slot.extra(), "mine");
    }
}
