//! Processes that train one pair of networks together: which one this is, what it takes of its machine, whether all of them
//! have the same, and how the end of one is the end of all.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use zgan::device::{Communicator, Device, DeviceChoice, Started, started};
use zgan::{Error, Result, cores};

static STARTED: LazyLock<Option<Started>> = LazyLock::new(started);

/// What the environment says of this process, where it is one of several.
pub fn several() -> Option<Started> {
    *STARTED
}

/// Whether another process speaks for this one.
pub fn is_silent() -> bool {
    several().is_some_and(|started| started.rank > 0)
}

/// To be called before an error is told: the first rank may have the same to say, and then nobody else needs to.
pub fn let_others_speak() {
    // mpirun takes a second to end the others.
    if let Some(Started { rank: rank @ 1.., .. }) = several() {
        std::thread::sleep(Duration::from_secs(2 + rank.min(3) as u64));
    }
}

/// Whom an error is of: `rank 2 of 4: `.
pub fn who() -> String {
    several().map_or(String::new(), |Started { rank, ranks, .. }| format!("rank {rank} of {ranks}: "))
}

/// The end of a command that did what it was to do.
pub fn leave(code: ExitCode) -> ExitCode {
    #[cfg(feature = "mpi")]
    zgan::device::Mpi::leave();
    code
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

/// The connection with the other processes.
pub struct Ranks {
    pub communicator: Arc<dyn Communicator>,
    /// The number of this rank among those of its machine.
    local: usize,
}

#[cfg(feature = "mpi")]
fn connect(started: Started, timeout: Option<Duration>) -> Result<Arc<dyn Communicator>> {
    Ok(Arc::new(zgan::device::Mpi::join(started, timeout)?))
}

#[cfg(not(feature = "mpi"))]
fn connect(Started { rank, ranks, variable, .. }: Started, _: Option<Duration>) -> Result<Arc<dyn Communicator>> {
    Err(Error::Config(format!(
        "{variable} says that this is rank {rank} of {ranks}; a build with MPI trains with several processes: cargo build \
         --release --features mpi"
    )))
}

impl Ranks {
    /// Meets the others, and takes a share of this machine's cores. None where this is the only process.
    pub fn join(timeout: u64) -> Result<Option<Ranks>> {
        let Some(started) = several() else { return Ok(None) };
        let communicator = connect(started, (timeout > 0).then(|| Duration::from_secs(timeout)))?;
        let mut ranks = Ranks { communicator, local: 0 };
        let machines = ranks.gather(machine())?;
        ranks.local = machines[..ranks.rank()].iter().filter(|other| **other == machines[ranks.rank()]).count();
        let places = ranks.gather(format!("{} {}", machine(), allowed_cores()))?;
        cores::share_among(places.iter().filter(|place| **place == places[ranks.rank()]).count());
        Ok(Some(ranks))
    }

    pub fn rank(&self) -> usize {
        self.communicator.rank()
    }

    /// What `--device` names for this rank.
    pub fn device(&self, choice: DeviceChoice) -> DeviceChoice {
        choice.of_rank(self.local)
    }

    /// A number for the bytes of each rank; equal bytes have equal numbers.
    fn gather(&self, bytes: impl AsRef<[u8]>) -> Result<Vec<u64>> {
        let (mut crc, bytes) = (flate2::Crc::new(), bytes.as_ref());
        crc.update(bytes);
        self.communicator.gather((bytes.len() as u64) << 32 | u64::from(crc.sum()))
    }

    /// The texts of all ranks.
    fn texts(&self, text: &str) -> Result<Vec<String>> {
        let mut all = vec![Vec::new(); self.communicator.ranks()];
        for at in 0..self.communicator.agree(text.len().div_ceil(8) as u64)? as usize {
            let rest = text.as_bytes().get(8 * at..).unwrap_or_default();
            let mut word = [0; 8];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            for (all, word) in all.iter_mut().zip(self.communicator.gather(u64::from_le_bytes(word))?) {
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

/// Whether any of the ranks says so.
pub fn any(ranks: Option<&Ranks>, here: bool) -> Result<bool> {
    ranks.map_or(Ok(here), |ranks| Ok(ranks.communicator.agree(here.into())? > 0))
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
