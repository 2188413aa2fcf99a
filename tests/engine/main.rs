//! Several answers on one context: each is what it would be alone, whatever else runs, waits, fails or is cancelled.

mod cancel;
mod company;
mod faults;
mod fixture;
mod limits;
mod prefix;
mod room;
mod turns;
