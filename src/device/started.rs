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
    among(&|name| std::env::var(name).ok()?.trim().parse().ok())
}

/// mpirun's word counts, also inside a job of Slurm's. Of the others, the one that speaks of more processes counts: that as
/// many trainings write to one run must not be.
fn among(number: &dyn Fn(&str) -> Option<usize>) -> Option<Started> {
    let told = |[size, rank, local]: &[&'static str; 3]| {
        Some(Started { rank: number(rank)?, ranks: number(size)?, local: number(local), variable: size })
    };
    let others = || [told(&TORCHRUN), SLURM.iter().find_map(told)].into_iter().flatten().max_by_key(|told| told.ranks);
    MPI.iter().find_map(told).or_else(others).filter(|told| told.ranks > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(environment: &[(&str, usize)]) -> Option<(usize, usize, Option<usize>, &'static str)> {
        let value = |name: &str| environment.iter().find(|(there, _)| *there == name).map(|(_, value)| *value);
        among(&value).map(|s| (s.rank, s.ranks, s.local, s.variable))
    }

    #[test]
    fn the_environment_says_which_of_how_many() {
        let open_mpi = [("OMPI_COMM_WORLD_SIZE", 4), ("OMPI_COMM_WORLD_RANK", 3), ("OMPI_COMM_WORLD_LOCAL_RANK", 1)];
        assert_eq!(of(&open_mpi), Some((3, 4, Some(1), "OMPI_COMM_WORLD_SIZE")));
        assert_eq!(of(&[("WORLD_SIZE", 2), ("RANK", 0)]), Some((0, 2, None, "WORLD_SIZE")));
        assert_eq!(of(&[("SLURM_NTASKS", 8), ("SLURM_PROCID", 7)]), Some((7, 8, None, "SLURM_NTASKS")));
        // A single process, or the shell of a job.
        for alone in [vec![], vec![("WORLD_SIZE", 1), ("RANK", 0)], vec![("SLURM_NTASKS", 8)], vec![("RANK", 3)]] {
            assert_eq!(of(&alone), None);
        }
        // mpirun and srun say of their processes what the job around them does not know; torchrun's are more than srun's.
        let job = [("SLURM_NTASKS", 8), ("SLURM_PROCID", 0)];
        assert_eq!(of(&[&job[..], &[("OMPI_COMM_WORLD_SIZE", 1), ("OMPI_COMM_WORLD_RANK", 0)]].concat()), None);
        assert_eq!(of(&[&job[..], &[("SLURM_STEP_NUM_TASKS", 1)]].concat()), None);
        let both = of(&[&job[..], &[("WORLD_SIZE", 16), ("RANK", 9)]].concat());
        assert_eq!(both, Some((9, 16, None, "WORLD_SIZE")));
        let one = of(&[&job[..], &[("WORLD_SIZE", 1), ("RANK", 0)]].concat());
        assert_eq!(one, Some((0, 8, None, "SLURM_NTASKS")));
    }
}
