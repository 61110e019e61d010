//! Processes, or threads with a GPU each, that work together, on one pair of networks for instance: which one this is, what it takes of its
//! machine, whether all of them have the same, and how the end of one is the end of all.

use std::cell::Cell;
use std::fmt::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use clap::Args;
use zgan::device::{Communicator, Device, DeviceChoice, Meeting, Started, started};
use zgan::{Error, Result, cores};

static STARTED: LazyLock<Option<Started>> = LazyLock::new(started);

thread_local! {
    /// In a thread that is a rank.
    static OWN: Cell<Option<Started>> = const { Cell::new(None) };
}

/// Of processes that met at a file: how the others hear of this one's end, and their connection.
static MET: OnceLock<Meeting> = OnceLock::new();
static LINK: Mutex<Option<Arc<dyn Communicator>>> = Mutex::new(None);

/// What the environment says of this process, or what this thread is, where it is one of several.
pub fn several() -> Option<Started> {
    OWN.get().or(*STARTED)
}

/// Whether another process or thread speaks for this one.
pub fn is_silent() -> bool {
    several().is_some_and(|started| started.rank > 0)
}

/// To be called before an error is told: the first rank may have the same to say, and then nobody else needs to.
pub fn let_others_speak() {
    // mpirun takes a second to end the others.
    if let Some(Started { rank: rank @ 1.., .. }) = *STARTED {
        std::thread::sleep(Duration::from_secs(2 + rank.min(3) as u64));
    }
}

/// Whom an error is of: `rank 2 of 4: `.
pub fn who() -> String {
    several().map_or(String::new(), |Started { rank, ranks, .. }| format!("rank {rank} of {ranks}: "))
}

/// The end of a command that did what it was to do.
pub fn leave(code: ExitCode) -> ExitCode {
    drop(LINK.lock().map(|mut link| link.take()));
    #[cfg(feature = "mpi")]
    zgan::device::Mpi::leave();
    code
}

/// Tells processes that met this one at a file why it ends.
pub fn tell_others(error: &anyhow::Error) {
    if let Some(meeting) = MET.get() {
        meeting.fail(format!("{error:#}"));
    }
}

/// The end of a command that failed, and of all others that work on the same.
pub fn abort(status: u8) -> ExitCode {
    #[cfg(feature = "mpi")]
    if several().is_some() {
        zgan::device::Mpi::abort(status.into());
    }
    ExitCode::from(status)
}

/// Refuses what several processes cannot do together.
pub fn alone(command: &str) -> Result<()> {
    let Some(Started { ranks, variable, .. }) = several() else { return Ok(()) };
    Err(Error::Config(format!("{command} is the work of one process, not of several: {variable} is {ranks}")))
}

/// The connection with the other processes or threads.
pub struct Ranks {
    rank: usize,
    ranks: usize,
    /// The number of this rank among those of its machine.
    local: usize,
    timeout: Duration,
    /// Between processes, whatever their devices are. None where nothing but GPUs is connected, as soon as they are open.
    start: Option<Arc<dyn Communicator>>,
    /// How NCCL connects the GPUs there.
    meeting: Option<Meeting>,
    /// What connects the devices.
    link: OnceLock<Arc<dyn Communicator>>,
}

#[cfg(feature = "mpi")]
fn connect(started: Started, timeout: Option<Duration>) -> Result<Arc<dyn Communicator>> {
    Ok(Arc::new(zgan::device::Mpi::join(started, timeout)?))
}

#[cfg(not(feature = "mpi"))]
fn connect(Started { rank, ranks, variable, .. }: Started, _: Option<Duration>) -> Result<Arc<dyn Communicator>> {
    Err(Error::Config(format!(
        "{variable} says that this is rank {rank} of {ranks}; a build with MPI trains with several processes: cargo build \
         --release --features mpi; those with a GPU each need no MPI where they meet at a file: --rendezvous"
    )))
}

/// The options of a command that several processes or GPUs can do together.
#[derive(Args)]
pub struct Together {
    /// Of several processes or GPUs, the longest wait for another one before all of them end; 0 for as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Connect GPUs of several processes by NCCL; they meet at this file, which all of them see
    #[arg(long, value_name = "FILE")]
    rendezvous: Option<PathBuf>,
}

impl Together {
    /// Does the work as the only rank, or as one of several: processes, or a thread for each GPU where `device` names several.
    pub fn run(
        &self,
        device: impl FnOnce() -> anyhow::Result<Option<DeviceChoice>>,
        work: impl Fn(Option<&Ranks>) -> anyhow::Result<ExitCode> + Sync,
    ) -> anyhow::Result<ExitCode> {
        if several().is_none() && self.rendezvous.is_none() {
            let gpus = device()?.and_then(DeviceChoice::gpus).map_or(1, |gpus| gpus.len());
            if gpus > 1 {
                return in_threads(gpus, self.timeout, |ranks| work(Some(ranks)));
            }
        }
        work(Ranks::join(self.timeout, self.rendezvous.as_deref())?.as_ref())
    }
}

/// `--timeout`, where 0 is as long as it takes.
fn limit(timeout: u64) -> Duration {
    Duration::from_secs(if timeout > 0 { timeout } else { u64::MAX })
}

/// Does the work in a thread for each of several GPUs of this machine. The error is that of the first rank that failed by
/// itself.
fn in_threads(
    gpus: usize,
    timeout: u64,
    work: impl Fn(&Ranks) -> anyhow::Result<ExitCode> + Sync,
) -> anyhow::Result<ExitCode> {
    let one = |meeting: Meeting| {
        let own = Started { rank: meeting.rank, ranks: gpus, local: Some(meeting.rank), variable: "--device" };
        OWN.set(Some(own));
        let ranks = Ranks::meeting(own.rank, meeting.clone());
        let done = catch_unwind(AssertUnwindSafe(|| work(&ranks)));
        let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        // Before the connection ends.
        done.as_ref().err().into_iter().for_each(|error| meeting.fail(format!("{error:#}")));
        (own, done)
    };
    let meetings = Meeting::of_threads(gpus, limit(timeout))?;
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = meetings.into_iter().map(|meeting| scope.spawn(|| one(meeting))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let heard = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Error::Ranks(_)));
    let first = all.iter().position(|(_, done)| done.as_ref().is_err_and(|error| !heard(error)));
    let first = first.or(all.iter().position(|(_, done)| done.is_err())).unwrap_or(0);
    let (own, done) = all.swap_remove(first);
    if done.is_err() {
        OWN.set(Some(own));
    }
    done
}

impl Ranks {
    /// Meets the others, and takes a share of this machine's cores. None where this is the only process. Those that meet at a
    /// file are not connected yet.
    pub fn join(timeout: u64, rendezvous: Option<&Path>) -> Result<Option<Ranks>> {
        let started = match (several(), rendezvous) {
            (Some(started), Some(file)) => return Ranks::at_file(file, started, timeout).map(Some),
            (Some(started), None) => started,
            (None, Some(_)) => {
                let what = "rendezvous: which of how many processes this is, RANK and WORLD_SIZE or SLURM_PROCID and \
                            SLURM_NTASKS have to say";
                return Err(Error::Config(what.into()));
            }
            (None, None) => return Ok(None),
        };
        let start = Some(connect(started, (timeout > 0).then(|| limit(timeout)))?);
        let (link, Started { rank, ranks, .. }) = (OnceLock::new(), started);
        let mut ranks = Ranks { rank, ranks, local: 0, timeout: limit(timeout), start, meeting: None, link };
        let machines = ranks.gather(machine())?;
        ranks.local = machines[..rank].iter().filter(|other| **other == machines[rank]).count();
        let places = ranks.gather(format!("{} {}", machine(), allowed_cores()))?;
        cores::share_among(places.iter().filter(|place| **place == places[rank]).count());
        Ok(Some(ranks))
    }

    fn at_file(file: &Path, started: Started, timeout: u64) -> Result<Ranks> {
        let Some(local) = started.local else {
            let what =
                "rendezvous: which GPU of its machine this process takes, LOCAL_RANK or SLURM_LOCALID has to say";
            return Err(Error::Config(what.into()));
        };
        let meeting = Meeting::of_processes(file, started.rank, started.ranks, limit(timeout))?;
        Ok(Ranks::meeting(local, MET.get_or_init(|| meeting).clone()))
    }

    fn meeting(local: usize, meeting: Meeting) -> Ranks {
        let Meeting { rank, ranks, timeout, .. } = meeting;
        Ranks { rank, ranks, local, timeout, start: None, meeting: Some(meeting), link: OnceLock::new() }
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn ranks(&self) -> usize {
        self.ranks
    }

    fn communicator(&self) -> Result<&Arc<dyn Communicator>> {
        let early = || Error::Ranks("the ranks are not connected yet".into());
        self.link.get().or(self.start.as_ref()).ok_or_else(early)
    }

    /// Which of so many rows this rank takes.
    pub fn share(&self, rows: usize) -> Result<Range<usize>> {
        Ok(self.communicator()?.share(rows))
    }

    /// The device as that of one of the ranks.
    pub fn on(&self, device: &Device) -> Result<Device> {
        self.connect(device)?;
        Ok(device.with_ranks(self.communicator()?.clone()))
    }

    /// Waits for all others, however long it takes.
    pub fn wait(&self) -> Result<()> {
        self.communicator()?.wait()
    }

    /// NCCL connects GPUs, once; what connects processes connects everything else.
    fn connect(&self, device: &Device) -> Result<()> {
        if self.link.get().is_some() {
            return Ok(());
        }
        let meeting = match (&self.meeting, &self.start) {
            (None, Some(start)) if device.execution() == "cuda" => Some(Meeting::over(start.clone(), self.timeout)?),
            (meeting, _) => meeting.clone(),
        };
        let Some(meeting) = meeting else { return Ok(()) };
        let link = device.connect(meeting)?;
        if MET.get().is_some() {
            drop(LINK.lock().map(|mut kept| *kept = Some(link.clone())));
        }
        let _ = self.link.set(link);
        Ok(())
    }

    /// What `--device` names for this rank.
    pub fn device(&self, choice: DeviceChoice) -> DeviceChoice {
        choice.of_rank(self.local)
    }

    /// A number for the bytes of each rank; equal bytes have equal numbers.
    fn gather(&self, bytes: impl AsRef<[u8]>) -> Result<Vec<u64>> {
        let (mut crc, bytes) = (flate2::Crc::new(), bytes.as_ref());
        crc.update(bytes);
        self.communicator()?.gather((bytes.len() as u64) << 32 | u64::from(crc.sum()))
    }

    /// The texts of all ranks.
    fn texts(&self, text: &str) -> Result<Vec<String>> {
        let link = self.communicator()?;
        let mut all = vec![Vec::new(); link.ranks()];
        for at in 0..link.agree(text.len().div_ceil(8) as u64)? as usize {
            let rest = text.as_bytes().get(8 * at..).unwrap_or_default();
            let mut word = [0; 8];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            for (all, word) in all.iter_mut().zip(link.gather(u64::from_le_bytes(word))?) {
                all.extend(word.to_le_bytes());
            }
        }
        Ok(all.iter().map(|bytes| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string()).collect())
    }

    /// An error unless all ranks have the same bytes.
    pub fn same(&self, what: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let all = self.gather(bytes)?;
        match all.iter().position(|of| *of != all[0]) {
            Some(other) => Err(Error::Ranks(format!("rank {other} has not the same {what} as rank 0"))),
            None => Ok(()),
        }
    }

    /// Refuses ranks that would work on one GPU, or on devices of different kinds. Gives lines about the devices.
    pub fn devices(&self, device: &Device) -> Result<Vec<String>> {
        if self.start.is_none() {
            self.connect(device)?;
        }
        if let Some(gpu) = device.gpu() {
            let all = self.gather(format!("{} {}", machine(), gpu.bus))?;
            let twice =
                |(i, gpu): (usize, &u64)| all[..i].iter().position(|other| other == gpu).map(|first| (first, i));
            if let Some((first, second)) = all.iter().enumerate().find_map(twice) {
                return Err(Error::Config(format!(
                    "ranks {first} and {second} are on the same GPU ({}): there must be a GPU for each rank of a machine",
                    device.description()
                )));
            }
        }
        self.same("device", device.name())?;
        let all = self.texts(&format!("{}on {}", device.description() + " ", host()))?;
        let mut lines = vec![format!("ranks   {}", all.len())];
        let mut first = 0;
        for (rank, text) in all.iter().enumerate() {
            if all.get(rank + 1) != Some(text) {
                let mut line = format!("        rank{} {first}", if first < rank { "s" } else { "" });
                if first < rank {
                    let _ = write!(line, " to {rank}");
                }
                lines.push(format!("{line}: {text}"));
                first = rank + 1;
            }
        }
        Ok(lines)
    }
}

/// Waits for what another rank does alone.
pub fn wait(ranks: Option<&Ranks>) -> Result<()> {
    ranks.map_or(Ok(()), Ranks::wait)
}

/// The device as that of one of the ranks, if there are several.
pub fn on(ranks: Option<&Ranks>, device: &Device) -> Result<Device> {
    ranks.map_or(Ok(device.clone()), |ranks| ranks.on(device))
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn host() -> String {
    file("/proc/sys/kernel/hostname")
}

/// What tells this machine from others, also where several containers on it have names of their own.
fn machine() -> String {
    let id = file("/proc/sys/kernel/random/boot_id");
    if id.is_empty() { host() } else { id }
}

/// The cores that this process may run on: mpirun and srun may have given each process others.
fn allowed_cores() -> String {
    let status = file("/proc/self/status");
    status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap_or_default().to_string()
}
