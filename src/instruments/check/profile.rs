//! The accesses to a GPU's memory that each kernel would cause, counted over the cases (`zgan check --profile`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{cases, run, select};
use crate::Result;
use crate::cores::on_all_cores;
use crate::device::{Device, Profile};

/// What was counted of one kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profiled {
    pub profile: Profile,
    pub cases: usize,
    /// Whether only cases of aligned sizes are counted. A kernel that no such case launches is counted over all cases.
    pub aligned: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Profiles {
    /// By the name of the kernel.
    pub kernels: BTreeMap<&'static str, Profiled>,
    pub time: Duration,
}

/// Runs the cases that `filter` selects under one schedule, and counts; only those of aligned sizes where `only_aligned`.
pub fn profile(filter: &str, schedule_seed: u64, only_aligned: bool) -> Result<Profiles> {
    let start = Instant::now();
    let all = cases();
    let mut list = select(&all, filter, true)?;
    list.retain(|case| case.aligned || !only_aligned);
    let open = || {
        let device = Device::simt_checked(schedule_seed);
        device.profile();
        Ok(device)
    };
    let seen = on_all_cores(list.len(), open, |device, at| run(list[at], device).map(|_| device.seen().profiles))?;
    let mut kernels: BTreeMap<&'static str, Profiled> = BTreeMap::new();
    for (case, seen) in list.iter().zip(seen) {
        for (name, profile) in seen? {
            let known = kernels.entry(name).or_default();
            if case.aligned && !known.aligned {
                *known = Profiled { aligned: true, ..Profiled::default() };
            }
            if case.aligned == known.aligned {
                known.profile.add(&profile);
                known.cases += 1;
            }
        }
    }
    if kernels.keys().any(|name| name.contains(filter)) {
        kernels.retain(|name, _| name.contains(filter));
    }
    Ok(Profiles { kernels, time: start.elapsed() })
}
