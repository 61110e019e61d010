//! What a GPU's memory would feel of each kernel, counted over the cases (`zgan check --profile`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{cases, run, select};
use crate::Result;
use crate::cores::on_all_cores;
use crate::device::{Device, Profile};

/// One kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profiled {
    pub profile: Profile,
    pub cases: usize,
    /// Whether these are the cases of aligned sizes alone. A kernel that is in none is shown at whatever sizes there are.
    pub aligned: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Profiles {
    /// By the name of the kernel.
    pub kernels: BTreeMap<&'static str, Profiled>,
    pub time: Duration,
}

/// Runs the cases with `filter` in their name, or of kernels with it in theirs, under one schedule; those of aligned sizes
/// alone where `only_aligned`.
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
