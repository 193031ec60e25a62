//! `ssefs check` on volumes that were damaged in every way that their bytes allow, crashed and
//! whole ones: what is found, what is repaired, what is salvaged, and that nothing else happens.

mod command;
mod damage;
mod flips;
mod harness;
mod recovery;
