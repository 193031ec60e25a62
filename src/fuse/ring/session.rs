//! A connection over rings, from the handshake to the end of the last thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::super::aside::{Bell, Group, Server, Watch};
use super::super::attach::{Attached, MountPlan};
use super::cpus::Cpus;
use super::device::{Device, serve_device};
use super::entry::Ticket;
use super::handshake::Handshake;
use super::lanes::{HomeThread, Lanes};
use super::serve::Service;
use super::worker::{Role, Worker};
use crate::fs::FileSystem;
use crate::sys::uring::{Ring, RingAddress};

/// A connection that is served.
pub(in super::super) struct RingSession {
    device: JoinHandle<io::Result<()>>,
    threads: Threads,
    watch: Option<Watch>,
    lanes: Arc<Lanes>,
}

/// What an attempt to start came to.
pub(in super::super) enum Start {
    /// It runs.
    Running(RingSession, Arc<Device>),
    /// The kernel does not offer it for this mount, or refused it. Nothing has been served; the
    /// mount is of no use any more.
    Refused(String),
}

struct Threads {
    with_rings: Vec<JoinHandle<()>>,
    slow: Vec<JoinHandle<()>>,
}

/// Why there can be no rings for a mount made now; `None` when there can.
pub(in super::super) fn unavailable() -> Option<String> {
    match std::fs::read_to_string(PARAMETER) {
        Err(_) => return Some("this kernel has no FUSE over io_uring (Linux 6.14)".to_owned()),
        Ok(value) if value.trim() != "Y" => {
            return Some(format!("it is switched off: 'echo Y > {PARAMETER}' as root"));
        }
        Ok(_) => {}
    }
    let tried = std::thread::scope(|scope| scope.spawn(|| Ring::<()>::new(1).map(|_| ())).join());
    match tried {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("io_uring is not to be had: {error}")),
        Err(_) => Some("io_uring is not to be had".to_owned()),
    }
}

impl RingSession {
    /// Agrees with the kernel on rings and serves them. The threads of `plan` are how many requests
    /// that may wait are served at a time.
    pub(in super::super) fn start(
        fs: Arc<FileSystem>,
        device: OwnedFd,
        attached: &Attached,
        plan: &MountPlan,
    ) -> io::Result<Start> {
        let device = Arc::new(Device::new(device, attached.clone()));
        let Some(handshake) = Handshake::begin(&device, fs.options())? else {
            return Ok(Start::Refused("the kernel does not offer it".to_owned()));
        };
        let roles = roles()?;
        let queues = Cpus::possible()?.0.iter().max().map_or(1, |&cpu| usize::from(cpu) + 1);
        let (mut starting, bell) = (Starting::default(), Arc::<Bell>::default());
        for role in roles {
            starting.spawn(role, Arc::clone(&bell))?;
        }
        let (homes, bulk, servers) = starting.addresses()?;
        let service = Service { fs, device: Arc::clone(&device) };
        let lanes = Arc::new(Lanes::new(service, queues, homes, bulk));
        // From the answer on requests wait for the rings; they are there already.
        handshake.finish(&device)?;
        let registered = starting.go(&lanes);
        let slow = (0..plan.threads).map(|index| {
            let lanes = Arc::clone(&lanes);
            spawn(format!("slow-{index}"), move || {
                if catch_unwind(AssertUnwindSafe(|| lanes.run_slow())).is_err() {
                    lanes.fail("a thread for what may wait panicked");
                }
            })
        });
        let mut threads =
            Threads { with_rings: starting.threads, slow: slow.collect::<io::Result<_>>()? };
        if let Err(error) = registered {
            device.abort();
            threads.end(&lanes);
            return Ok(Start::Refused(format!("the kernel refused to register: {error}")));
        }
        let served = Arc::clone(&lanes);
        let reader = std::thread::Builder::new().name("fuse".to_owned()).spawn(move || {
            let read = catch_unwind(AssertUnwindSafe(|| serve_device(&served.service)));
            let read = read.unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
            if let Err(error) = &read {
                served.fail(&format!("reading /dev/fuse: {error}"));
            }
            read
        })?;
        let groups = servers.into_iter().map(Group::bound).collect();
        let watch = plan.stand_aside.then(|| Watch::start(bell, groups)).flatten();
        Ok(Start::Running(Self { device: reader, threads, watch, lanes }, device))
    }

    /// Waits until the connection has ended and every request has been answered.
    pub(in super::super) fn wait(mut self) -> io::Result<()> {
        let read = self.device.join();
        drop(self.watch);
        self.threads.end(&self.lanes);
        let read = read.unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        match self.lanes.failure() {
            Some(reason) => Err(io::Error::other(reason)),
            None => read,
        }
    }
}

impl Threads {
    fn end(&mut self, lanes: &Lanes) {
        lanes.close_slow();
        let join = |threads: &mut Vec<JoinHandle<()>>| {
            for thread in threads.drain(..) {
                if thread.join().is_err() {
                    log::error!("a thread of the session panicked");
                }
            }
        };
        join(&mut self.slow);
        lanes.wake_all();
        join(&mut self.with_rings);
    }
}

/// What a thread has made, and who it is where it is bound to a CPU.
type Made = (RingAddress<Ticket>, Option<Arc<Server>>);

type Groups = Vec<Vec<Arc<Server>>>;

/// Threads that have made their rings and wait for the handshake.
#[derive(Default)]
struct Starting {
    threads: Vec<JoinHandle<()>>,
    made: Vec<(Role, Receiver<io::Result<Made>>)>,
    go: Vec<Sender<Arc<Lanes>>>,
    registered: Vec<Receiver<io::Result<()>>>,
}

impl Starting {
    fn spawn(&mut self, role: Role, bell: Arc<Bell>) -> io::Result<()> {
        let (tell_made, made) = channel();
        let (go, told_to_go) = channel::<Arc<Lanes>>();
        let (tell_registered, registered) = channel();
        let own = role.clone();
        let name = match &role {
            Role::Home { index, .. } => format!("ring-{index}"),
            Role::Bulk { index } => format!("bulk-{index}"),
        };
        self.threads.push(spawn(name, move || {
            let server = own.settle(&bell);
            let ring = match Ring::new(RING_ENTRIES) {
                Ok(ring) => ring,
                // Nobody is left to hear it when the session has been given up.
                Err(error) => return drop(tell_made.send(Err(error))),
            };
            let _ = tell_made.send(Ok((ring.address(), server.clone())));
            let Ok(lanes) = told_to_go.recv() else { return };
            let worker = Worker::new(ring, own, server, Arc::clone(&lanes));
            serve_ring(worker, &lanes, &tell_registered);
        })?);
        self.made.push((role, made));
        self.go.push(go);
        self.registered.push(registered);
        Ok(())
    }

    /// The homes in their order, the bulk threads, and who serves which CPU.
    fn addresses(&mut self) -> io::Result<(Vec<HomeThread>, Vec<RingAddress<Ticket>>, Groups)> {
        let (mut homes, mut bulk, mut of_cpus) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (role, made) in self.made.drain(..) {
            let (address, server) =
                made.recv().unwrap_or_else(|_| Err(io::Error::other("a thread ended")))?;
            match role {
                Role::Home { neighbour, cpu, .. } => {
                    homes.push(HomeThread::new(address, neighbour));
                    let of_cpu: &mut Vec<_> = of_cpus.entry(cpu).or_default();
                    of_cpu.extend(server);
                }
                Role::Bulk { .. } => bulk.push(address),
            }
        }
        Ok((homes, bulk, of_cpus.into_values().collect()))
    }

    fn go(&mut self, lanes: &Arc<Lanes>) -> io::Result<()> {
        for go in self.go.drain(..) {
            let _ = go.send(Arc::clone(lanes));
        }
        self.registered.drain(..).try_for_each(|registered| {
            registered.recv().unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
        })
    }
}

fn serve_ring(mut worker: Worker, lanes: &Lanes, registered: &Sender<io::Result<()>>) {
    let served = catch_unwind(AssertUnwindSafe(|| {
        let outcome = worker.register();
        let failed = outcome.is_err();
        let _ = registered.send(outcome);
        if failed { Ok(()) } else { worker.run() }
    }));
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => lanes.fail(&format!("a ring broke off: {error}")),
        Err(_) => lanes.fail("a thread with a ring panicked"),
    }
}

/// Two threads on each CPU, so that one serves while the other waits for a disk; one for all CPUs
/// that do not run, which may yet come; some for bulk.
fn roles() -> io::Result<Vec<Role>> {
    let (possible, online) = (Cpus::possible()?.0, Cpus::online()?.0);
    let (running, others): (Vec<u16>, Vec<u16>) =
        possible.into_iter().partition(|cpu| online.contains(cpu));
    let pairs = running.iter().enumerate().flat_map(|(pair, &queue)| {
        let (first, second) = (2 * pair, 2 * pair + 1);
        [(first, second), (second, first)].map(|(index, other)| Role::Home {
            index,
            queues: vec![queue],
            cpu: Some(usize::from(queue)),
            neighbour: Some(other),
        })
    });
    let index = 2 * running.len();
    let rest = (!others.is_empty()).then_some(others);
    let rest = rest.map(|queues| Role::Home { index, queues, cpu: None, neighbour: None });
    let homes = pairs.chain(rest);
    let bulk = running.len().clamp(BULK_THREADS_MIN, BULK_THREADS_MAX);
    Ok(homes.chain((0..bulk).map(|index| Role::Bulk { index })).collect())
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work)
}

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
const RING_ENTRIES: u32 = 64;
const BULK_THREADS_MIN: usize = 2;
const BULK_THREADS_MAX: usize = 8;
