//! What is agreed with the kernel when a session starts: capabilities and limits.

use std::io;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

use crate::fs::FsOptions;

/// Asks for everything useful that this kernel offers, and refuses to go on without what the
/// options promise.
///
/// # Errors
/// The name of the option that this kernel cannot serve.
pub(super) fn negotiate(
    config: &mut KernelConfig,
    options: &FsOptions,
) -> Result<(), &'static str> {
    let chosen = chosen(config.capabilities(), options)?;
    config.add_capabilities(chosen).expect("only what is offered is asked for");
    config.set_max_write(MAX_WRITE).expect("fuser takes up to 16 MiB");
    config.set_max_background(MAX_BACKGROUND).expect("not zero");
    config.set_time_granularity(Duration::from_nanos(1)).expect("a power of ten");
    // The kernel offers what its read-ahead is set to, and takes no more than that.
    let wanted = read_ahead_bytes(options);
    let _ = config.set_max_readahead(wanted).map_err(|most| config.set_max_readahead(most));
    Ok(())
}

/// What is asked for of what a kernel offers.
///
/// # Errors
/// The name of the option that this kernel cannot serve.
pub(super) fn chosen(offered: InitFlags, options: &FsOptions) -> Result<InitFlags, &'static str> {
    // What a kernel lacks it does not list; each of these is an improvement, none a promise.
    let mut chosen = WANTED & offered;
    if options.writeback {
        chosen |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if !offered.contains(chosen) {
        return Err("writeback=on");
    }
    if options.acl {
        chosen |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
    }
    if offered.contains(chosen) { Ok(chosen) } else { Err("acl") }
}

/// What the kernel may read ahead until `tune` sets it, if that may.
pub(super) fn read_ahead_bytes(options: &FsOptions) -> u32 {
    options.read_ahead_kib.saturating_mul(1024)
}

/// The refusal of an option.
pub(super) fn not_offered(option: &str) -> io::Error {
    let message = format!("this kernel does not offer what option '{option}' needs");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// Most show in the benchmark when they are left out. `KILLPRIV_V2`: the kernel then asks for
/// `security.capability` at each write, and small ones take two to eight times as long.
/// `READDIRPLUS`: a tree is listed with four times the requests. `ATOMIC_O_TRUNC` saves a request,
/// `PARALLEL_DIROPS` lets two look-ups in one directory go on at once.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_MAX_PAGES);

/// Bytes of one write; a read is smaller (`attach`). The kernel's `fs.fuse.max_pages_limit` is 256
/// pages.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel keeps in flight for read-ahead and write-back. One program is served
/// alike with 12; four that read large files at once are a tenth faster with so many.
pub(super) const MAX_BACKGROUND: u16 = 128;
