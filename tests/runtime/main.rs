//! Models run end to end: what is computed, what is refused, what the commands say.

mod bench;
mod chat;
mod cli;
mod compute;
mod eval;
mod fixture;
mod hostile;
mod interrupted;
mod streams;
mod threats;
mod trained;
mod vision;
