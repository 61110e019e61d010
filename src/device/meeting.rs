//! Where the ranks of several GPUs meet before NCCL connects them, and where they hear that one of them failed: threads of one
//! process, or processes that see the same file.
//!
//! The file may be left from an earlier start, whose processes are gone. So each rank but the first leaves a random number
//! beside the file, the first answers with the id of the connection and all these numbers, and a rank takes the id only where
//! its own number stands beside it.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::Communicator;
use crate::{Error, Result, files};

/// What NCCL knows a group of ranks by.
pub type UniqueId = [u8; 128];

/// What one rank knows of the others before it is connected with them.
#[derive(Clone)]
pub struct Meeting {
    pub rank: usize,
    pub ranks: usize,
    /// How long a rank waits for the others, here or in a collective, until it takes them to be lost.
    pub timeout: Duration,
    pub id: UniqueId,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Room(Arc<Room>),
    File(PathBuf),
    Others(Arc<dyn Communicator>),
}

/// What the threads of one process share.
#[derive(Default)]
struct Room {
    talk: Mutex<Talk>,
    changed: Condvar,
}

#[derive(Default)]
struct Talk {
    failure: Option<String>,
    /// Of the numbers that are being agreed on: how many there are, and the largest.
    given: usize,
    largest: u64,
    /// How many times all ranks have agreed, and on what the last time.
    turn: u64,
    agreed: u64,
}

impl Meeting {
    /// Those of the threads of one process, one for each rank.
    pub fn in_a_room(ranks: usize, id: UniqueId, timeout: Duration) -> Vec<Meeting> {
        let room = Arc::new(Room::default());
        let meeting = |rank| Meeting { rank, ranks, timeout, id, place: Place::Room(room.clone()) };
        (0..ranks).map(meeting).collect()
    }

    /// That of a process whose other ranks come to the same file. Rank 0 brings the `id`. Waits for all of them.
    pub fn at_file(
        file: &Path,
        (rank, ranks): (usize, usize),
        timeout: Duration,
        id: impl FnOnce() -> Result<UniqueId>,
    ) -> Result<Meeting> {
        let id = match rank {
            0 => {
                let id = id()?;
                invite(file, ranks, &id, timeout)?;
                id
            }
            _ => accept(file, (rank, ranks), timeout)?,
        };
        Ok(Meeting { rank, ranks, timeout, id, place: Place::File(file.into()) })
    }

    /// For ranks that something connects already, which tells them of the end of one of them. Rank 0 brings the `id`.
    pub(super) fn through(
        others: Arc<dyn Communicator>,
        timeout: Duration,
        id: impl FnOnce() -> Result<UniqueId>,
    ) -> Result<Meeting> {
        let (rank, ranks) = (others.rank(), others.ranks());
        let mut id = if rank == 0 { id()? } else { [0; 128] };
        for word in id.as_chunks_mut().0 {
            *word = others.agree(u64::from_le_bytes(*word))?.to_le_bytes();
        }
        Ok(Meeting { rank, ranks, timeout, id, place: Place::Others(others) })
    }

    /// Tells the other ranks why this one ends. The first failure of all ranks counts.
    pub fn fail(&self, why: impl std::fmt::Display) {
        let text = self.named(why);
        match &self.place {
            Place::Room(room) => {
                room.lock().failure.get_or_insert(text);
                room.changed.notify_all();
            }
            Place::File(file) => {
                // Where it cannot be written, the others wait for their timeout.
                let made = fs::OpenOptions::new().write(true).create_new(true).open(beside(file, "failed"));
                let _ = made.and_then(|mut file| file.write_all(text.as_bytes()));
            }
            Place::Others(_) => {}
        }
    }

    /// `rank 1 of 4: why`
    pub(super) fn named(&self, why: impl std::fmt::Display) -> String {
        let (who, why) = (format!("rank {} of {}: ", self.rank, self.ranks), why.to_string());
        if why.starts_with(&who) { why } else { who + &why }
    }

    /// Which rank failed first, and why.
    pub fn failure(&self) -> Option<String> {
        match &self.place {
            Place::Room(room) => room.lock().failure.clone(),
            Place::File(file) => fs::read_to_string(beside(file, "failed")).ok().filter(|text| !text.is_empty()),
            Place::Others(_) => None,
        }
    }

    /// How often to ask whether another rank failed. A file may be on a disk that many share.
    pub(super) fn pause(&self) -> Duration {
        Duration::from_millis(if matches!(self.place, Place::File(_)) { 500 } else { 20 })
    }

    /// The largest of the numbers that all ranks give, without the GPUs; None where only those connect them. A patient rank
    /// waits for the others however long it takes.
    pub fn agree(&self, number: u64, patient: bool) -> Option<Result<u64>> {
        let room = match &self.place {
            Place::Room(room) => room,
            Place::File(_) => return None,
            Place::Others(others) if patient => return Some(others.wait().map(|()| 0)),
            Place::Others(others) => return Some(others.agree(number)),
        };
        let limit = if patient { Duration::MAX } else { self.timeout };
        let (begun, mut talk) = (Instant::now(), room.lock());
        let turn = talk.turn;
        (talk.given, talk.largest) = (talk.given + 1, talk.largest.max(number));
        if talk.given == self.ranks {
            *talk = Talk { agreed: talk.largest, turn: turn + 1, failure: talk.failure.take(), given: 0, largest: 0 };
            room.changed.notify_all();
        }
        while talk.turn == turn && talk.failure.is_none() {
            let Some(left) = limit.checked_sub(begun.elapsed()) else {
                drop(talk);
                let why = self.silence();
                self.fail(&why);
                return Some(Err(Error::Ranks(self.named(why))));
            };
            talk = room.changed.wait_timeout(talk, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        match &talk.failure {
            Some(why) if talk.turn == turn => Some(Err(Error::Ranks(why.clone()))),
            _ => Some(Ok(talk.agreed)),
        }
    }

    /// Why a rank gives up waiting.
    pub(super) fn silence(&self) -> String {
        format!("no answer from the other ranks within {} seconds", self.timeout.as_secs())
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// `FILE.what`
fn beside(file: &Path, what: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{what}"));
    path.into()
}

fn of_rank(file: &Path, rank: usize) -> PathBuf {
    beside(file, &format!("rank-{rank}"))
}

/// The digits of a rank's random number.
const NUMBER: usize = 16;

const PAUSE: Duration = Duration::from_millis(20);

/// Rank 0: gives the id to every other rank that comes.
fn invite(file: &Path, ranks: usize, id: &UniqueId, timeout: Duration) -> Result<()> {
    for old in [file, &beside(file, "failed")] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(old)(error)),
            _ => {}
        }
    }
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (begun, mut known) = (Instant::now(), vec![None; ranks]);
    loop {
        let is_number = |text: &String| text.len() == NUMBER && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = |rank| fs::read_to_string(of_rank(file, rank)).ok().filter(is_number);
        let there: Vec<Option<String>> = (0..ranks).map(|rank| if rank > 0 { number(rank) } else { None }).collect();
        let before = known.clone();
        known.iter_mut().zip(&there).filter(|(_, new)| new.is_some()).for_each(|(known, new)| known.clone_from(new));
        if known != before {
            let numbers = known.iter().map(|number| number.as_deref().unwrap_or("-"));
            let lines: Vec<&str> = std::iter::once(hex.as_str()).chain(numbers).collect();
            files::write_bytes(file, lines.join("\n").as_bytes())?;
        }
        let missing = |rank: &usize| known[*rank].is_none() || there[*rank].is_some();
        let missing: Vec<String> = (1..ranks).filter(missing).map(|rank| rank.to_string()).collect();
        if missing.is_empty() {
            // Each of them has taken the id.
            let _ = fs::remove_file(file);
            return Ok(());
        }
        if begun.elapsed() > timeout {
            let (file, seconds, ranks) = (file.display(), timeout.as_secs(), missing.join(", "));
            return Err(Error::Ranks(format!("{file}: these ranks did not come within {seconds} seconds: {ranks}")));
        }
        thread::sleep(PAUSE);
    }
}

/// Every other rank: waits for the id that is meant for this process.
fn accept(file: &Path, (rank, ranks): (usize, usize), timeout: Duration) -> Result<UniqueId> {
    let (begun, own) = (Instant::now(), of_rank(file, rank));
    let number = format!("{:0NUMBER$x}", RandomState::new().build_hasher().finish());
    files::write_bytes(&own, number.as_bytes())?;
    let taken = loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.get(1 + rank).is_some_and(|line| *line == number) {
            break match (lines.len() - 1, unhexed(lines[0])) {
                (counted, _) if counted != ranks => Err(Error::Config(format!(
                    "{}: rank 0 counts {counted} ranks, rank {rank} {ranks}",
                    file.display()
                ))),
                (_, Some(id)) => Ok(id),
                (_, None) => Err(Error::Ranks(format!("{}: it is not as rank 0 wrote it", file.display()))),
            };
        }
        if begun.elapsed() > timeout {
            let (file, seconds) = (file.display(), timeout.as_secs());
            break Err(Error::Ranks(format!("{file}: rank 0 did not come within {seconds} seconds")));
        }
        thread::sleep(PAUSE);
    };
    fs::remove_file(&own).map_err(Error::io(&own))?;
    taken
}

fn unhexed(text: &str) -> Option<UniqueId> {
    let digits = text.as_bytes().as_chunks::<2>().0.iter();
    let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
