//! Programs that people run: what they need of a file system, all at once.

mod archives;
mod builds;
mod database;
mod fsx;
mod git;
mod mounting;
mod sqlite;
