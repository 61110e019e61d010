//! Which of several processes this one is, as the environment tells: whatever started them has written it there.

/// One of several processes that were started together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The number of this process, from 0.
    pub rank: usize,
    /// How many there are, more than one.
    pub ranks: usize,
    /// The number of this process among those of its machine, where the environment has it.
    pub local: Option<usize>,
    /// The variable that says how many there are.
    pub variable: &'static str,
}

/// The variables that say how many, which one, and which one of the machine. Of Open MPI, and of MPICH and Intel MPI.
const MPI: [[&str; 3]; 2] = [
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"],
];
const TORCHRUN: [&str; 3] = ["WORLD_SIZE", "RANK", "LOCAL_RANK"];
/// Of a step that srun started, and of a job, which may have no such step.
const SLURM: [[&str; 3]; 2] =
    [["SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"], ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"]];

/// What the environment says of this process. None where it is the only one.
pub fn started() -> Option<Started> {
    Started::among(&|name| std::env::var(name).ok()?.trim().parse().ok())
}

impl Started {
    /// The same of an environment whose numbers `number` gives. mpirun's word counts, also inside a job of Slurm's. Of the
    /// others, the one that speaks of more processes counts: that as many trainings write to one run must not be.
    pub fn among(number: &dyn Fn(&str) -> Option<usize>) -> Option<Started> {
        let told = |[size, rank, local]: &[&'static str; 3]| {
            Some(Started { rank: number(rank)?, ranks: number(size)?, local: number(local), variable: size })
        };
        let slurm = || SLURM.iter().find_map(told);
        let others = || [told(&TORCHRUN), slurm()].into_iter().flatten().max_by_key(|told| told.ranks);
        MPI.iter().find_map(told).or_else(others).filter(|told| told.ranks > 1)
    }
}
