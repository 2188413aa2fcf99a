//! An engine on a thread of its own, for many askers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use ocelli_runtime::{Prompt, RuntimeError};
use ocelli_text::sampler::SamplerChain;
use ocelli_text::tokenizer::TokenDecoder;

use crate::complete::{Assets, remember, sample};
use crate::generation::{Answer, Choice, Ended, Generation};
use crate::job::Job;
use crate::scheduler::{Queue, Scheduler};
use crate::stop_strings::StopStrings;

/// What somebody asks for.
#[derive(Debug)]
pub struct Request {
    /// What is to be answered.
    pub prompt: Prompt,
    /// Tokens of the answer, at most.
    pub n_predict: usize,
    /// Chooses them.
    pub sampler: SamplerChain,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Event {
    /// So many positions of the prompt have been computed, of so many; some of them were known.
    Prompt {
        /// Computed or known.
        done: usize,
        /// In all.
        all: usize,
        /// Known.
        reused: usize,
    },
    /// A token of the answer, and the text that is certain with it: often none, for characters and stop strings come in pieces.
    Token {
        /// The token.
        id: u32,
        /// More text.
        text: String,
    },
    /// The answer is over; nothing follows.
    End {
        /// Text that was held back.
        text: String,
        /// The stop string that ended it, if one did.
        stop: Option<String>,
        /// How it ended.
        how: Result<Ended, RuntimeError>,
    },
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Event>,
    cancel: Arc<AtomicBool>,
}

impl Events {
    /// Ends the request at the next step; its end is still told.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event; `None` after the last.
    fn next(&mut self) -> Option<Event> {
        self.receiver.recv().ok()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// One request on the engine's side.
#[derive(Debug)]
struct Asked {
    assets: Arc<Assets>,
    sampler: SamplerChain,
    decoder: TokenDecoder,
    stop: StopStrings,
    sender: Sender<Event>,
    cancel: Arc<AtomicBool>,
}

impl Asked {
    /// Tells an event; that nobody listens any more cancels the request.
    fn tell(&self, event: Event) {
        if self.sender.send(event).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn end(&mut self, how: Result<Ended, RuntimeError>) {
        let rest = self.decoder.finish().to_owned();
        let text = self.stop.push(&rest) + &self.stop.finish();
        let stop = self.stop.found().map(str::to_owned);
        self.tell(Event::End { text, stop, how });
    }
}

impl Answer for Asked {
    fn prompt(&mut self, done: usize, all: usize, reused: usize) {
        self.tell(Event::Prompt { done, all, reused });
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        sample(&mut self.sampler, &self.assets.tokenizer, logits)
    }

    fn token(&mut self, id: u32) -> Choice {
        let text = self.stop.push(self.decoder.push(&self.assets.tokenizer, id));
        self.tell(Event::Token { id, text });
        if self.stop.found().is_some() { Choice::End } else { Choice::Token(id) }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// What the thread is sent.
#[derive(Debug)]
enum Message {
    Generation(Box<Generation<Asked>>),
    Job(Box<dyn Job>),
}

/// How much there is to do.
#[derive(Debug, Default)]
struct Load {
    running: AtomicUsize,
    waiting: AtomicUsize,
    /// Requests that the thread has not seen yet.
    sent: AtomicUsize,
}

/// An engine on a thread of its own. Cloned handles ask the same engine; with the last of them the thread ends, and
/// requests and jobs under way are cancelled.
#[derive(Debug, Clone)]
pub struct Engine {
    // Dropped first: its end is how the thread learns that nobody is left.
    messages: Sender<Message>,
    assets: Arc<Assets>,
    load: Arc<Load>,
    _thread: Arc<Joined>,
}

/// Waits for the thread when it is dropped.
#[derive(Debug)]
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic there has been told; there is nobody to tell it again.
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(scheduler: Scheduler, assets: Arc<Assets>) -> std::io::Result<Self> {
        let (messages, receiver) = mpsc::channel();
        let load = Arc::<Load>::default();
        let seen = Arc::clone(&load);
        let thread =
            std::thread::Builder::new().name("engine".to_owned()).spawn(move || serve(scheduler, &receiver, &seen))?;
        Ok(Self { messages, assets, load, _thread: Arc::new(Joined(Some(thread))) })
    }

    /// Asks for an answer.
    #[must_use]
    pub fn ask(&self, request: Request) -> Events {
        let Request { prompt, n_predict, mut sampler, stop } = request;
        let (sender, receiver) = mpsc::channel();
        let cancel = Arc::<AtomicBool>::default();
        remember(&mut sampler, &prompt, &[]);
        let asked = Asked {
            assets: Arc::clone(&self.assets),
            sampler,
            decoder: TokenDecoder::new(false, false),
            stop: StopStrings::new(stop),
            sender,
            cancel: Arc::clone(&cancel),
        };
        self.load.sent.fetch_add(1, Ordering::Relaxed);
        // Without its thread nobody answers: the events end at once.
        let generation = Box::new(Generation::new(&prompt, n_predict, asked));
        let _ = self.messages.send(Message::Generation(generation));
        Events { receiver, cancel }
    }

    /// Has a job done beside the answers, behind the jobs that were there before.
    pub fn submit(&self, job: Box<dyn Job>) {
        // Without its thread the job is dropped: whoever waits for it learns that from its end of what they share.
        let _ = self.messages.send(Message::Job(job));
    }

    /// What a model file carries besides the model.
    #[must_use]
    pub fn assets(&self) -> &Arc<Assets> {
        &self.assets
    }

    /// Requests under way, and requests that wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let Load { running, waiting, sent } = &*self.load;
        let [running, waiting, sent] = [running, waiting, sent].map(|n| n.load(Ordering::Relaxed));
        (running, waiting + sent)
    }
}

/// Computes until all handles are gone.
fn serve(mut scheduler: Scheduler, messages: &Receiver<Message>, load: &Load) {
    let mut queue = Queue::new();
    loop {
        let next = if queue.is_empty() {
            messages.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
        } else {
            messages.try_recv()
        };
        let gone = matches!(next, Err(mpsc::TryRecvError::Disconnected));
        match next {
            Ok(Message::Generation(generation)) => {
                load.sent.fetch_sub(1, Ordering::Relaxed);
                queue.push(*generation);
                continue;
            }
            Ok(Message::Job(job)) => {
                queue.push_job(job);
                continue;
            }
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => queue.interrupt_all(),
        }
        scheduler.step(&mut queue);
        while let Some((generation, how)) = queue.take_ended() {
            generation.into_answer().end(how);
        }
        if gone {
            return;
        }
        load.running.store(queue.running(), Ordering::Relaxed);
        load.waiting.store(queue.len() - queue.running(), Ordering::Relaxed);
    }
}
