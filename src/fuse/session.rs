//! One mount's life: attached to the kernel, served by threads, ended by an unmount from
//! either side. A file system is unmounted at most once, and only while it is the one that is
//! mounted there.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fuser::{Config, INodeNo, Notifier, SessionACL};

use super::aside::{Bell, Callers, Group, Watch};
use super::attach::{Attached, DEVICE, Detached, MountPlan, attach};
use super::classic::Classic;
use super::error::MountError;
use super::ring::{self, RingSession, Start};
use super::transport::{Choice, Transport};
use super::tune::Tuner;
use crate::fs::{FileSystem, NodeId};
use crate::sys::own_mount;

/// A running mount.
pub struct Session {
    served: Served,
    attached: Attached,
    kernel: KernelCache,
    tuner: Option<Tuner>,
}

/// Who serves it.
enum Served {
    Classic(JoinHandle<io::Result<()>>, Option<Watch>),
    Ring(RingSession),
}

/// What the kernel has cached of files.
#[derive(Debug, Clone)]
pub struct KernelCache {
    way: Way,
}

/// How notifications reach the kernel.
#[derive(Debug, Clone)]
enum Way {
    Classic(Arc<OnceLock<Notifier>>),
    Ring(Arc<ring::Device>),
}

/// Unmounts from another thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    attached: Attached,
}

impl Session {
    /// Mounts and serves. On return the mount answers.
    ///
    /// # Errors
    /// When it returns one, nothing is left mounted.
    pub fn start(fs: Arc<FileSystem>, plan: &MountPlan) -> Result<Self, MountError> {
        let mut session = match ring::unavailable() {
            _ if plan.transport == Choice::Classic => Self::start_classic(&fs, plan)?,
            None => match Self::start_ring(&fs, plan)? {
                Ok(session) => session,
                Err(reason) => Self::start_without_ring(&fs, plan, reason)?,
            },
            Some(reason) => Self::start_without_ring(&fs, plan, reason)?,
        };
        fs.set_transport(session.transport().name());
        // A ring's handshake is over; that of fuser goes on in its own thread.
        if matches!(session.served, Served::Classic(..))
            && let Err(source) = own_mount::wait_until_served(&session.attached.mount_point)
        {
            return Err(session.abandon(source));
        }
        session.tuner = Some(Tuner::start(session.attached.device, &fs));
        Ok(session)
    }

    /// Refuses, or does without, as was asked for.
    fn start_without_ring(
        fs: &Arc<FileSystem>,
        plan: &MountPlan,
        reason: String,
    ) -> Result<Self, MountError> {
        if plan.transport == Choice::Uring {
            return Err(MountError::NoRing(reason));
        }
        log::debug!("requests come through /dev/fuse alone: {reason}");
        Self::start_classic(fs, plan)
    }

    /// The reason, with nothing left mounted, when the kernel does not want rings after all.
    fn start_ring(
        fs: &Arc<FileSystem>,
        plan: &MountPlan,
    ) -> Result<Result<Self, String>, MountError> {
        let (device, attached) = attach(plan)?;
        match RingSession::start(Arc::clone(fs), device, &attached, plan) {
            Ok(Start::Running(served, device)) => {
                let (served, kernel) =
                    (Served::Ring(served), KernelCache { way: Way::Ring(device) });
                Ok(Ok(Self { served, attached, kernel, tuner: None }))
            }
            Ok(Start::Refused(reason)) => {
                attached.detach()?;
                Ok(Err(reason))
            }
            Err(error) => Err(undone(&attached, MountError::Handshake(error))),
        }
    }

    fn start_classic(fs: &Arc<FileSystem>, plan: &MountPlan) -> Result<Self, MountError> {
        let (device, attached) = attach(plan)?;
        // The kernel keeps other users out itself, or checks permissions. A filter by user here
        // would only refuse the writeback cache's own requests, which may come under any user.
        let notifier = Arc::new(OnceLock::new());
        let bell: Arc<Bell> = Arc::default();
        let callers = Arc::new(Callers::new(Arc::clone(&bell)));
        let new = Classic::new(Arc::clone(fs), Arc::clone(&callers), Arc::clone(&notifier));
        let served = new.and_then(|classic| {
            fuser::Session::from_fd(classic, device, SessionACL::All, config(plan))
        });
        let loops = served.map_err(MountError::Handshake).and_then(|served| {
            notifier.get_or_init(|| served.notifier());
            std::thread::Builder::new()
                .name("fuse".to_owned())
                .spawn(move || served.run())
                .map_err(MountError::Handshake)
        });
        let loops = loops.map_err(|error| undone(&attached, error))?;
        let kernel = KernelCache { way: Way::Classic(notifier) };
        let groups = vec![Group::following(callers)];
        let watch = plan.stand_aside.then(|| Watch::start(bell, groups)).flatten();
        Ok(Self { served: Served::Classic(loops, watch), attached, kernel, tuner: None })
    }

    /// How requests reach it.
    pub fn transport(&self) -> Transport {
        match self.served {
            Served::Classic(..) => Transport::Classic,
            Served::Ring(_) => Transport::Uring,
        }
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.attached.mount_point
    }

    /// A handle to unmount with.
    pub fn stopper(&self) -> Stopper {
        Stopper { attached: self.attached.clone() }
    }

    /// The way to what the kernel has cached.
    pub fn kernel_cache(&self) -> KernelCache {
        self.kernel.clone()
    }

    /// Waits until it is unmounted and every request has been answered.
    pub fn wait(self) -> io::Result<()> {
        match self.served {
            Served::Classic(loops, _watch) => loops
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the session's thread panicked"))),
            Served::Ring(session) => {
                let ended = session.wait();
                if ended.is_err()
                    && let Err(error) = self.attached.detach()
                {
                    log::warn!("{error}");
                }
                ended
            }
        }
    }

    fn abandon(self, source: io::Error) -> MountError {
        let path = self.attached.mount_point.clone();
        if let Err(error) = self.attached.detach() {
            log::warn!("{error}");
        }
        MountError::NotAnswering { path, source }
    }
}

impl KernelCache {
    /// Makes the kernel send what was written to a file and forget what it has read of it. Waits
    /// for write requests, so it is not for threads that serve requests.
    pub fn drop_file(&self, node: NodeId) {
        let dropped = match &self.way {
            Way::Classic(notifier) => match notifier.get() {
                Some(notifier) => notifier.inval_inode(INodeNo(node.0), 0, 0),
                None => return,
            },
            Way::Ring(device) => device.invalidate(node),
        };
        match dropped {
            Ok(()) => {}
            // The kernel does not know the file any more.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => log::error!("inode {}: cached pages stay: {error}", node.0),
        }
    }
}

impl Stopper {
    /// Unmounts; a file system in use leaves the tree now and ends with its last user.
    pub fn stop(&self) -> Result<Detached, MountError> {
        self.attached.detach()
    }
}

fn undone(attached: &Attached, error: MountError) -> MountError {
    if let Err(second) = attached.detach() {
        log::warn!("{second}");
    }
    error
}

fn config(plan: &MountPlan) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(plan.threads);
    // Each clone is opened from the device anew, which an ordinary user may be denied even
    // though `fusermount3` could open it.
    config.clone_fd = File::options().read(true).write(true).open(DEVICE).is_ok();
    config
}
