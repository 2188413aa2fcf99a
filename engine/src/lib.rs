//! Many conversations on one model.
//!
//! ```text
//! Queue<A>     generations in order of arrival, each with an Answer: who chooses its tokens and takes them; and Jobs:
//!              work in pieces beside them, as encoding a picture is
//! Scheduler    a context, and the policy by which generations share it: one step is one forward pass
//! Engine       a scheduler on a thread of its own: Request in, Events out
//! bench        many generations at once, timed
//! Session      one conversation at a time, saved and restored; Chat: messages, pictures, dropped turns
//! ```
#![forbid(unsafe_code)]

pub mod bench;
mod chat;
mod chat_note;
mod complete;
mod encode;
mod generation;
mod job;
mod placement;
mod scheduler;
mod service;
mod session;
mod stop_strings;

pub use chat::{Chat, SavedChat, render};
pub use complete::{Assets, Completion, Watch, complete};
pub use encode::{EncodeJob, EncodedRows};
pub use generation::{Answer, Choice, Ended, Generation, Stop};
pub use job::Job;
pub use placement::{compose, conversation_prompt, marker, text_prompt, without_markers};
pub use scheduler::{Queue, Scheduler, SchedulerOptions, Step};
pub use service::{Engine, Event, Events, Request};
pub use session::{Prefill, SavedSession, Session, SessionKind};
pub use stop_strings::StopStrings;
