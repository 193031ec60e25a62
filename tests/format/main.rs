//! The bytes on disk, held to `src/format/FORMAT.md`: by frozen volumes, by vectors, by a reader
//! and a writer made from that page alone.

mod compatible;
mod document;
mod fixture;
mod frozen;
mod generate;
mod independent;
mod mount;
mod rewrapped;
mod vectors;
