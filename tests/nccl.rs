//! Several GPUs: collectives through the library that stands in for NCCL, on the driver that stands in for libcuda
//! (`tests/driver`).
//!
//! Most tests run their body in a process of its own that finds both, with its own settings; a rank is a thread there.

#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use stand_in::{on_stand_in, quietly_with};
use zgan::device::{Device, Meeting, Reduction};
use zgan::{Error, Result};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

/// What `body` gives on each of the first GPUs, as many as there are ranks. Each is told of it before any connection ends.
fn on_gpus<T: Send>(ranks: usize, timeout: Duration, body: impl Fn(&Device) -> Result<T> + Sync) -> Vec<Result<T>> {
    let (meetings, all) = (Meeting::of_threads(ranks, timeout).unwrap(), Barrier::new(ranks));
    let rank = |meeting: Meeting| {
        let device = Device::cuda(meeting.rank).and_then(|gpu| Ok(gpu.with_ranks(gpu.connect(meeting.clone())?)));
        let result = device.as_ref().map_err(|e| Error::Ranks(e.to_string())).and_then(&body);
        if let Err(error) = &result {
            meeting.fail(error);
        }
        all.wait();
        result
    };
    thread::scope(|scope| {
        let ranks: Vec<_> = meetings.into_iter().map(|meeting| scope.spawn(|| rank(meeting))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The message of each rank.
fn errors<T>(results: Vec<Result<T>>) -> Vec<String> {
    results.into_iter().map(|result| result.err().expect("an error").to_string()).collect()
}

#[test]
fn collectives_are_right() {
    for ranks in [2, 4] {
        let settings = format!("devices={ranks}");
        let told = quietly_with("collectives_are_right", &settings, &[("ZGAN_STAND_IN_NCCL", "counts")], || {
            let bits = on_gpus(ranks, LONG, |gpu| {
                let link = gpu.ranks().unwrap();
                assert_eq!(link.ranks(), ranks);
                let own = |i: usize| (i * (link.rank() + 1)) as f32 / 3.0 - 5.0;
                let values = gpu.upload(&(0..1000).map(own).collect::<Vec<_>>())?;
                let part = values.view(3..998);
                link.all_reduce(&part, Reduction::Sum)?;
                link.all_reduce(&values.view(0..2), Reduction::Max)?;
                link.broadcast(&values.view(998..999), ranks - 1)?;
                link.all_reduce(&values.view(1000..1000), Reduction::Sum)?;
                let found = values.read()?;
                let sum = |i: usize| (1..=ranks).map(|rank| (i * rank) as f32 / 3.0 - 5.0).sum();
                let last = |i: usize| (i * ranks) as f32 / 3.0 - 5.0;
                let expected = [vec![last(0), last(1), own(2)], (3..998).map(sum).collect(), vec![last(998), own(999)]];
                assert_eq!(found, expected.concat());
                assert_eq!(link.agree(10 + link.rank() as u64)?, 9 + ranks as u64);
                assert_eq!(link.agree(u64::MAX - link.rank() as u64)?, u64::MAX);
                Ok(part.read()?.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            });
            let bits: Vec<_> = bits.into_iter().map(Result::unwrap).collect();
            assert!(bits.iter().all(|other| *other == bits[0]));
        });
        for rank in 0..ranks {
            let line = format!("stand-in nccl: rank {rank}: 3 collectives of 3992 bytes");
            assert!(told.as_ref().is_none_or(|told| told.contains(&line)), "{told:?}");
        }
    }
}

/// As a step is: captured once, and started again and again; nothing is done meanwhile that nobody waits for.
#[test]
fn collectives_of_a_graph_are_done_at_each_replay() {
    quietly_with("collectives_of_a_graph_are_done_at_each_replay", "devices=2", &[], || {
        let found = on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let (sum, own) = (gpu.zeros::<f32>(2)?, gpu.upload(&[1.0, 10.0f32 * link.rank() as f32])?);
            let graph = gpu.capture(|| {
                link.all_reduce(&sum, Reduction::Sum)?;
                // Each replay begins from what the one before left.
                sum.view(1..2).copy_from(&own.view(1..2))
            })?;
            sum.write(&[1.0, 5.0])?;
            let graph = graph.unwrap();
            for _ in 0..3 {
                graph.launch()?;
            }
            // One rank is late.
            if link.rank() == 1 {
                thread::sleep(Duration::from_millis(30));
            }
            sum.read()
        });
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, [[8.0, 0.0], [8.0, 10.0]]);
    });
}

#[test]
fn what_nccl_refuses_is_told() {
    let test = "what_nccl_refuses_is_told";
    let said = on_stand_in(test, "devices=2", &[], || {
        let all = errors(on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let values = gpu.zeros::<f32>(7)?;
            link.all_reduce(&values.view(0..5 + link.rank()), Reduction::Sum)?;
            values.read()
        }));
        assert!(
            all.iter().all(|error| *error == all[0] && error.contains(": a collective: internal error")),
            "{all:?}"
        );
        let all = errors(on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let values = Device::cuda(1 - link.rank())?.zeros::<f32>(7)?;
            link.all_reduce(&values, Reduction::Sum)
        }));
        assert!(all.iter().all(|error| error.contains("on another device")), "{all:?}");
        let all = errors(on_gpus(2, LONG, |gpu| gpu.ranks().unwrap().broadcast(&gpu.zeros(1)?, 2)));
        assert!(
            all[0].contains("rank 0 of 2: ncclBroadcast: invalid argument (NCCL_DEBUG=WARN tells more)"),
            "{all:?}"
        );
        let host = Device::host(1).unwrap().connect(Meeting::of_threads(1, LONG).unwrap().remove(0));
        assert_eq!(host.err().unwrap().to_string(), "NCCL connects GPUs, not device host");
        // One GPU twice.
        let all = thread::scope(|scope| {
            let join = |meeting| scope.spawn(|| Device::cuda(0).unwrap().connect(meeting));
            let joins: Vec<_> = Meeting::of_threads(2, LONG).unwrap().into_iter().map(join).collect();
            errors(joins.into_iter().map(|join| join.join().unwrap()).collect())
        });
        assert!(all[1].contains("rank 1 of 2: ncclCommInitRank: invalid usage"), "{all:?}");
    });
    for part in [
        "collective 1: rank 0 has all-reduce (sum) of 5 f32, rank 1 has all-reduce (sum) of 6 f32",
        "a broadcast from 2 of 2 ranks",
        "rank 0 and rank 1 are both on device 0",
    ] {
        assert!(said.as_ref().is_none_or(|said| said.contains(part)), "{part}: {said:?}");
    }
}

/// Whatever becomes of one rank, all of them end, and each says what it was.
#[test]
fn a_rank_that_fails_ends_all() {
    let test = "a_rank_that_fails_ends_all";
    for (nccl, why) in [
        ("init", "rank 1 of 3: ncclCommInitRank: unhandled system error"),
        ("rank=2,call=2", "rank 2 of 3: ncclAllReduce: unhandled system error"),
        ("rank=0,error=3", "rank 0: a collective: remote process exited or there was a network error"),
        ("hang=4", ": no answer from the other ranks within 1 seconds"),
    ] {
        on_stand_in(test, &format!("devices=3,launch={}", nccl.len()), &[("ZGAN_STAND_IN_NCCL", nccl)], || {
            let all = errors(on_gpus(3, SHORT, |gpu| {
                let (link, values) = (gpu.ranks().unwrap(), gpu.upload(&[1.0; 100])?);
                let graph = gpu.capture(|| link.all_reduce(&values, Reduction::Sum))?;
                for _ in 0..5 {
                    link.all_reduce(&values, Reduction::Sum)?;
                    graph.as_ref().unwrap().launch()?;
                }
                values.read()
            }));
            assert!(all.iter().all(|error| error.contains(why)), "{nccl}: {all:?}");
        });
    }
    // A rank fails by itself, while the others wait for it.
    on_stand_in(test, "devices=3", &[], || {
        let all = errors(on_gpus(3, LONG, |gpu| {
            let (link, values) = (gpu.ranks().unwrap(), gpu.upload(&[1.0; 100])?);
            if link.rank() == 1 {
                return Err(Error::Config("no data".into()));
            }
            link.all_reduce(&values, Reduction::Sum)?;
            if link.rank() == 0 { link.agree(0).map(|_| Vec::new()) } else { values.read() }
        }));
        assert_eq!(all, ["rank 1: no data", "no data", "rank 1: no data"]);
    });
}
