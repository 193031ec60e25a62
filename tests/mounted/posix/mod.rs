//! POSIX and Linux behaviour, one concern per file. Each test also passes on plain ext4.

pub mod io;
pub mod locks;

mod acl;
mod copy_range;
mod direct;
mod directories;
mod fallocate;
mod links;
mod mmap;
mod names;
mod open;
mod ownership;
mod private;
mod readonly;
mod rename;
mod seek;
mod set_id;
mod sparse;
mod special;
mod statfs;
mod sync;
mod times;
mod truncate;
mod unlinked;
mod xattr;
