//! `ssefs key` as people and scripts meet it, without a mount: what each command prints, in text
//! and in JSON, what it refuses and with which exit code, and what many of them do at once.

mod aliases;
mod bench;
mod cryptography;
mod lifecycle;
mod policies;
mod refusals;
mod together;
mod trail;
