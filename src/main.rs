//! The `ssefs` program: hands the command line to [`ssefs::cli`].

fn main() {}
