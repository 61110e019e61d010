//! Decodes the batches of the next steps while the current one trains.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::{Error, Result};

/// How many batches are decoded ahead of the one that is asked for.
const DEPTH: usize = 2;

struct Job {
    step: u64,
    place: usize,
    index: usize,
}

struct Done {
    step: u64,
    place: usize,
    image: Result<Vec<u8>>,
}

struct Batch {
    step: u64,
    images: Vec<Option<Result<Vec<u8>>>>,
    missing: usize,
}

pub struct Ahead {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    batches: VecDeque<Batch>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

/// Decodes the image of a number.
pub type Read = dyn Fn(usize) -> Result<Vec<u8>> + Send + Sync;

impl Ahead {
    /// Starts up to `threads` threads that call `read`. There is none where the system refuses even the first one.
    pub fn new(threads: usize, read: &Arc<Read>) -> Option<Ahead> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (results, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let stop = Arc::new(AtomicBool::new(false));
        let mut ahead = Ahead { jobs: Some(jobs), done, batches: VecDeque::new(), stop, workers: Vec::new() };
        for i in 0..threads {
            let (read, queue, results, stop) = (read.clone(), queue.clone(), results.clone(), ahead.stop.clone());
            let work = move || {
                while !stop.load(Ordering::Relaxed) {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { step, place, index }) = job else { break };
                    // Whoever waits for the image gets an error: without an answer, it would wait for ever.
                    let image = catch_unwind(AssertUnwindSafe(|| read(index)));
                    let image = image.unwrap_or_else(|_| Err(panicked()));
                    if results.send(Done { step, place, image }).is_err() {
                        break;
                    }
                }
            };
            match std::thread::Builder::new().name(format!("decode-{i}")).spawn(work) {
                Ok(worker) => ahead.workers.push(worker),
                Err(_) => break,
            }
        }
        (!ahead.workers.is_empty()).then_some(ahead)
    }

    /// Fills `images` with the batch of `step`. `indices` tells which images a step's batch is made of.
    pub fn fill(&mut self, step: u64, images: &mut [u8], mut indices: impl FnMut(u64) -> Vec<u32>) -> Result<()> {
        while self.batches.front().is_some_and(|batch| batch.step != step) {
            self.batches.pop_front();
        }
        while self.batches.len() <= DEPTH {
            let next = step + self.batches.len() as u64;
            let order = indices(next);
            self.batches.push_back(Batch {
                step: next,
                images: order.iter().map(|_| None).collect(),
                missing: order.len(),
            });
            if let Some(jobs) = &self.jobs {
                for (place, index) in order.into_iter().enumerate() {
                    jobs.send(Job { step: next, place, index: index as usize }).map_err(|_| gone())?;
                }
            }
        }
        while self.batches.front().is_some_and(|batch| batch.missing > 0) {
            let Done { step, place, image } = self.done.recv().map_err(|_| gone())?;
            // An image of a batch that is no longer wanted is dropped.
            if let Some(batch) = self.batches.iter_mut().find(|batch| batch.step == step)
                && batch.images[place].is_none()
            {
                batch.images[place] = Some(image);
                batch.missing -= 1;
            }
        }
        let batch = self.batches.pop_front().ok_or_else(gone)?;
        let len = images.len() / batch.images.len();
        for (out, image) in images.chunks_exact_mut(len).zip(batch.images) {
            out.copy_from_slice(&image.ok_or_else(gone)??);
        }
        Ok(())
    }
}

fn panicked() -> Error {
    Error::Device("host: a thread that decodes images failed (it panicked)".into())
}

fn gone() -> Error {
    Error::Device("host: the threads that decode images have ended".into())
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // What is queued need not be decoded any more.
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
