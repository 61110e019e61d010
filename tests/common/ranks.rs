//! Ranks that are threads of one process, each with a device of its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use zgan::Result;
use zgan::device::{Buffer, Communicator, Device, Reduction};

/// How long a rank waits for the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` on so many ranks at once, each on the device that `device` makes; what each gives, in their order. Ranks that do not
/// make the same calls panic. One alone has a communicator too.
pub fn on_ranks<T: Send>(
    ranks: usize,
    device: fn() -> Device,
    body: impl Fn(&Device, &Connection) -> T + Sync,
) -> Vec<T> {
    let meeting = Arc::new(Meeting { ranks, ..Meeting::default() });
    thread::scope(|scope| {
        let start = |rank| {
            let connection = Connection { meeting: meeting.clone(), rank, made: Arc::default() };
            let body = &body;
            scope.spawn(move || {
                let _others = TellOthers(connection.meeting.clone());
                body(&device().with_ranks(Arc::new(connection.clone())), &connection)
            })
        };
        let all: Vec<_> = (0..ranks).map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What a rank called, and on how many values.
pub type Call = (String, usize);

#[derive(Clone)]
pub struct Connection {
    meeting: Arc<Meeting>,
    rank: usize,
    made: Arc<Mutex<Vec<Call>>>,
}

#[derive(Default)]
struct Meeting {
    ranks: usize,
    present: Mutex<Present>,
    changed: Condvar,
}

/// What a rank calls, and its values.
type Given = (Call, Vec<f32>);

/// The ranks that have come to the present call, and those that have gone on from it.
#[derive(Default)]
struct Present {
    values: Vec<Option<Given>>,
    complete: Option<Arc<Vec<Given>>>,
    gone: usize,
    /// A rank has panicked.
    broken: bool,
}

struct TellOthers(Arc<Meeting>);

impl Drop for TellOthers {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().broken = true;
            self.0.changed.notify_all();
        }
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        present: MutexGuard<'a, Present>,
        what: &str,
        until: fn(&Present) -> bool,
    ) -> MutexGuard<'a, Present> {
        let waiting = |present: &mut Present| !until(present) && !present.broken;
        let (present, waited) = self.changed.wait_timeout_while(present, PATIENCE, waiting).unwrap();
        assert!(!present.broken, "another rank has panicked");
        assert!(!waited.timed_out(), "{what}: the other ranks have not come");
        present
    }
}

impl Connection {
    /// The calls of this rank so far.
    pub fn calls(&self) -> Vec<Call> {
        self.made.lock().unwrap().clone()
    }

    /// The values of all ranks, once all have come with the same call.
    fn meet(&self, name: String, values: Vec<f32>) -> Vec<Vec<f32>> {
        let call = (name, values.len());
        let what = format!("rank {}, call {}, {call:?}", self.rank, self.made.lock().unwrap().len());
        self.made.lock().unwrap().push(call.clone());
        let meeting = &*self.meeting;
        let mut present = meeting.wait(meeting.lock(), &what, |present| present.complete.is_none());
        present.values.resize_with(meeting.ranks, || None);
        present.values[self.rank] = Some((call.clone(), values));
        if present.values.iter().all(Option::is_some) {
            present.complete = Some(Arc::new(std::mem::take(&mut present.values).into_iter().flatten().collect()));
            meeting.changed.notify_all();
        }
        let mut present = meeting.wait(present, &what, |present| present.complete.is_some());
        let all = present.complete.clone().unwrap();
        present.gone += 1;
        if present.gone == meeting.ranks {
            (present.complete, present.gone) = (None, 0);
            meeting.changed.notify_all();
        }
        drop(present);
        for (rank, (other, _)) in all.iter().enumerate() {
            assert_eq!(&call, other, "{what}: rank {rank} makes another call");
        }
        all.iter().map(|(_, values)| values.clone()).collect()
    }
}

impl Communicator for Connection {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.meeting.ranks
    }

    /// In the order of the ranks, so that the bits are always the same.
    fn all_reduce(&self, values: &Buffer<f32>, reduction: Reduction) -> Result<()> {
        let all = self.meet(format!("{reduction:?}"), values.read()?);
        let join = |a: f32, b: f32| if reduction == Reduction::Sum { a + b } else { a.max(b) };
        let joined = all.into_iter().reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| join(a, b)).collect());
        values.write(&joined.unwrap())
    }

    fn broadcast(&self, values: &Buffer<f32>, from: usize) -> Result<()> {
        let all = self.meet(format!("broadcast from {from}"), values.read()?);
        values.write(&all[from])
    }

    fn agree(&self, number: u64) -> Result<u64> {
        let words = [number as u32, (number >> 32) as u32].map(f32::from_bits).to_vec();
        let number = |words: Vec<f32>| u64::from(words[0].to_bits()) | u64::from(words[1].to_bits()) << 32;
        Ok(self.meet("agree".into(), words).into_iter().map(number).max().unwrap())
    }
}
