//! `zgan bench --model`: its arithmetic on figures worked out by hand, and that it knows all that is launched.

use std::process::Command;

use zgan::device::{Device, Launched, Precision, Unit, trace, traffic};
use zgan::instruments::bench::{
    self, CARDS, Card, Growth, Link, LinkKind, Modelled, Multiprocessor, Planned, Problem, Slowed, StepProblem, Times,
};
use zgan::instruments::gate::{Budget, Turn};
use zgan::settings::Preset;

/// A card of round figures.
const ROUND: Card = Card {
    name: "round",
    title: "A card of round figures",
    devices: &[],
    multiprocessors: 10,
    fma: 1e12,
    tf32: None,
    bf16: Some(8e12),
    f16: Some(4e12),
    bandwidth: 1e11,
    multiprocessor: Multiprocessor { loops: Some("sm_90"), fma: 100.0, tensor: 1000.0, reached: 0.5 },
    link: Link { kind: LinkKind::NvLink, bandwidth: 1e11 },
    source: "this test",
};

fn times(kernel: &'static str, flops: u64, bytes: u64) -> Times {
    Times::of(&ROUND, &Launched { grid: [1; 3], kernel, flops, bytes, seconds: 0.0 }, 1e-6).unwrap()
}

#[track_caller]
fn near(found: f64, expected: f64) {
    approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-12 * expected.abs());
}

#[test]
fn a_launch_takes_the_longer_of_products_and_memory_and_what_follows() {
    // 2e7 operations at 1e12 a second are 20 us; 5e5 bytes at 1e11 a second are 5 us.
    let product = times("linear_forward_f32_64x64", 20_000_000, 500_000);
    near(product.products, 20e-6);
    near(product.memory, 5e-6);
    near(product.least, 21e-6);
    assert_eq!(product.bound(), "products");
    // The same on tensor cores: 2.5 us, so memory binds.
    let tensor = times("linear_forward_bf16_64x64", 20_000_000, 500_000);
    near(tensor.products, 2.5e-6);
    near(tensor.least, 6e-6);
    assert_eq!(tensor.bound(), "memory");
    near(times("linear_forward_f16_64x64", 20_000_000, 0).least, 6e-6);
    let small = times("state_advance", 0, 64);
    near(small.least, 1e-6 + 64e-11);
    assert_eq!(small.bound(), "launches");
}

#[test]
fn issue_slots_and_shared_memory_slow_a_loop_down() {
    let card = |name: &str| CARDS.iter().find(|card| card.name == name).unwrap();
    let turn = Turn { products: 16, issued: 279, shared: 5632, ..Turn::default() };
    // 16 x 2,048 multiply-adds at 2,048 a cycle are 16 cycles; 279 instructions of 4 schedulers are 69.75 of them, and 5,632
    // bytes at 128 a cycle are 44. An H100 reaches 62 % of the rate.
    let Slowed { products, issue, shared } = card("h100").slowed(Unit::Bf16, &turn);
    near(products, 1.0 / 0.62);
    near(issue, 69.75 / 16.0);
    near(shared.unwrap(), 44.0 / 16.0);
    let shares = |name: &str, unit| card(name).slowed(unit, &turn).shares().map(|share| share.map(f64::round));
    assert_eq!(shares("h100", Unit::Tf32), [Some(37.0), Some(59.0)]);
    // An HMMA keeps a scheduler of an A100 8 cycles, of an RTX 4090 32.
    assert_eq!(shares("a100", Unit::F16), [Some(46.0), Some(73.0)]);
    assert_eq!(shares("rtx4090", Unit::F16), [Some(100.0), Some(100.0)]);
    // An FFMA keeps a scheduler of an A100 2 cycles, the others' one.
    let turn = Turn { products: 1024, issued: 1979, ..turn };
    let of = |name: &str| card(name).slowed(Unit::Fma, &turn).shares()[0].unwrap().round();
    assert_eq!([of("a100"), of("h100")], [100.0, 52.0]);
}

/// What the gate counted is in the model: of each kernel that has counts, the longest limit.
#[test]
fn a_product_takes_as_long_as_its_loop_was_counted_to() {
    let kernel = "conv_forward_128x64_bf16";
    let turn = Budget::committed().unwrap().turn("sm_90", kernel, "lean").unwrap();
    let found = times(kernel, 80_000_000, 100);
    // 10 us at the published rate, of which half is reached.
    near(found.products, 20e-6);
    near(found.issue, 10e-6 * f64::from(turn.issued) / 4.0 / (f64::from(turn.products) * 2.048));
    near(found.shared, 10e-6 * f64::from(turn.shared) / 128.0 / (f64::from(turn.products) * 2.048));
    let longest = found.products.max(found.issue).max(found.shared);
    near(found.least, longest + 1e-6);
    let bound = [("products", found.products), ("issue", found.issue), ("shared", found.shared)];
    assert!(bound.contains(&(found.bound(), longest)), "{found:?}");
}

/// Each by what its driver calls it, and no other for it.
#[test]
fn cards_are_recognised() {
    let card = |name: &str| Card::called(name).map(|card| card.name);
    for (name, expected) in [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("Tesla T4", "t4"),
        ("zgan stand-in, host", "h100"),
    ] {
        assert_eq!(card(name), Some(expected), "{name}");
    }
    for other in ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H200 NVL", "NVIDIA L40", "NVIDIA"] {
        assert_eq!(card(other), None, "{other}");
    }
}

#[test]
fn a_card_without_the_unit_is_told() {
    let launched = Launched { grid: [1; 3], kernel: "conv_forward_tf32_64x64", flops: 1, bytes: 1, seconds: 0.0 };
    let error = Times::of(&ROUND, &launched, 0.0).unwrap_err().to_string();
    assert!(error.contains("conv_forward_tf32_64x64: A card of round figures has no tensor tf32"), "{error}");
}

#[test]
fn a_sum_is_that_of_its_launches() {
    let launched = [
        Launched { grid: [1; 3], kernel: "linear_forward_f32_64x64", flops: 20_000_000, bytes: 500_000, seconds: 0.0 },
        Launched { grid: [1; 3], kernel: "zero", flops: 0, bytes: 200_000, seconds: 0.0 },
        Launched { grid: [1; 3], kernel: "linear_forward_f32_64x64", flops: 10_000_000, bytes: 500_000, seconds: 0.0 },
    ];
    let Modelled { total, kernels, .. } = Modelled::of(&ROUND, "two".into(), "form", &launched, 1e-6).unwrap();
    // 20, 2 and 10 us and three times one; memory alone would take 5 + 2 + 5.
    near(total.least, 35e-6);
    near(total.products, 30e-6);
    near(total.memory, 12e-6);
    near(total.overhead, 3e-6);
    assert_eq!((total.launches, total.flops, total.bytes), (3, 30_000_000, 1_200_000));
    assert_eq!(
        kernels.iter().map(|(name, times)| (*name, times.launches)).collect::<Vec<_>>(),
        [("linear_forward_f32_64x64", 2), ("zero", 1)]
    );
    near(kernels[0].1.least, 32e-6);
}

#[test]
fn cards_are_plausible() {
    for card in &CARDS {
        assert!(!card.source.is_empty());
        for rate in [card.tf32, card.bf16, card.f16].into_iter().flatten() {
            assert!(rate >= card.fma, "{}", card.name);
        }
        // Twice as much in half the bits, where there are both.
        if let (Some(tf32), Some(bf16)) = (card.tf32, card.bf16) {
            // As published: the L40S's are rounded otherwise.
            approx::assert_abs_diff_eq!(bf16 / tf32, 2.0, epsilon = 0.03);
        }
        // Operations for each byte.
        assert!((5.0..110.0).contains(&(card.fma / card.bandwidth)), "{}", card.name);
    }
}

/// Nothing is left out: what is recorded is what is counted, on a device that computes and on one that only lists.
#[test]
fn every_launch_is_recorded() {
    let host = Device::host(1).unwrap();
    for problem in bench::problems(true) {
        for form in (problem.make)(&host).unwrap() {
            let before = traffic();
            let launched = trace(|| form.run()).unwrap();
            let after = traffic();
            let kernels: Vec<_> = launched.iter().filter(|l| !["copy", "zero"].contains(&l.kernel)).collect();
            assert_eq!(kernels.len() as u64, after.launches - before.launches, "{}", problem.name());
            assert_eq!(kernels.iter().map(|l| l.bytes).sum::<u64>(), after.bytes - before.bytes, "{}", problem.name());
            assert_eq!(kernels.iter().map(|l| l.flops).sum::<u64>(), after.flops - before.flops, "{}", problem.name());
        }
    }
    assert_eq!(trace(|| Ok(())).unwrap(), []);
}

#[test]
fn every_problem_and_step_has_a_model() {
    for card in &CARDS {
        for problem in bench::problems(true) {
            for form in bench::model(card, &problem).unwrap() {
                assert!(form.total.least > 0.0 && form.total.launches > 0, "{form:?}");
                let by_kernel: f64 = form.kernels.iter().map(|(_, times)| times.least).sum();
                approx::assert_abs_diff_eq!(by_kernel, form.total.least, epsilon = 1e-12);
            }
        }
    }
    // The sizes that people ask for take no memory here.
    for problem in bench::steps(false) {
        let [graph, launched] = &bench::model_step(&CARDS[0], &problem).unwrap()[..] else { panic!() };
        assert!(graph.total.least < launched.total.least && graph.total.launches > 20, "{graph:?}");
        assert_eq!(graph.total.flops, launched.total.flops);
    }
}

/// Products of another precision are made by tensor cores, as fast as those are; a card without them is told.
#[test]
fn tensor_cores_have_their_own_rate() {
    let card = CARDS.iter().find(|card| card.name == "a100").unwrap();
    for (precision, rate) in [(Precision::Tf32, card.tf32), (Precision::Bf16, card.bf16), (Precision::F16, card.f16)] {
        let problems = bench::problems_in(precision, true);
        let multiply = |problem: &&Problem| problem.operation != "convert";
        let modelled: Vec<Modelled> =
            problems.iter().filter(multiply).flat_map(|p| bench::model(card, p).unwrap()).collect();
        assert!(modelled.len() > 5, "{precision}: {}", modelled.len());
        for Modelled { name, total, .. } in modelled {
            assert!(total.flops > 0, "{name}");
            near(total.products, total.flops as f64 / rate.unwrap());
        }
        let step = bench::steps_in(precision, true).swap_remove(0);
        let [graph, ..] = &bench::model_step(card, &step).unwrap()[..] else { panic!() };
        assert!(graph.total.products < 0.9 * graph.total.flops as f64 / card.fma, "{graph:?}");
    }
    let problems = bench::problems_in(Precision::Bf16, true);
    let problem = problems.iter().find(|problem| problem.operation == "matmul").unwrap();
    let error = bench::model(CARDS.iter().find(|card| card.name == "t4").unwrap(), problem).unwrap_err().to_string();
    assert!(error.contains("NVIDIA T4 has no tensor bf16"), "{error}");
}

/// NCCL's figures by hand, with links of 100 GB/s; between machines each of 8 cards has 50 GB/s, so these links bind there too.
#[test]
fn a_sum_over_ranks_takes_the_least_of_the_ways() {
    #[track_caller]
    fn near_both((waits, moves): (f64, f64), expected: (f64, f64)) {
        near(waits, expected.0);
        near(moves, expected.1);
    }
    near_both(ROUND.all_reduce(1, 1 << 30), (0.0, 0.0));
    // Few bytes: a ring of two has two steps, at a quarter of the bandwidth; a ring of eight has fourteen, as has a chain.
    near_both(ROUND.all_reduce(2, 1000), (3.6e-6 + 2.0 * 0.47e-6, 1000.0 / 0.25e11));
    near_both(ROUND.all_reduce(8, 1000), (3.6e-6 + 14.0 * 0.47e-6, 1.75 * 1000.0 / 0.25e11));
    // Many bytes: a ring at the whole bandwidth.
    near_both(ROUND.all_reduce(8, 1 << 30), (8.4e-6 + 14.0 * 3.4e-6, 1.75 * (1u64 << 30) as f64 / 1e11));
    // 64 machines: a tree of six levels, up and down, with a chain of eight in each.
    near_both(ROUND.all_reduce(512, 1000), (4.4e-6 + 12.0 * 5e-6 + 14.0 * 0.52e-6, 2.0 * 1000.0 / (1e11 * 0.9 / 3.8)));
    near_both(
        ROUND.all_reduce(16, 1 << 34),
        (8.4e-6 + 2.0 * 9.6e-6 + 28.0 * 3.4e-6, 1.875 * (1u64 << 34) as f64 / 1e11),
    );
    // Eight adapters of 50 GB/s are slower than NVLink of 450 GB/s, and faster than PCIe of 32.
    let moves = |name: &str, ranks| {
        CARDS.iter().find(|card| card.name == name).unwrap().all_reduce(ranks, 1 << 36).1 / (1u64 << 36) as f64
    };
    near(moves("h100", 8), 1.75 / 450e9);
    near(moves("h100", 64), 2.0 * 63.0 / 64.0 / 400e9);
    near(moves("l40s", 64), 2.0 * 63.0 / 64.0 / 32e9);
}

fn step(name: &str) -> StepProblem {
    let presets = vec![name.parse::<Preset>().unwrap()];
    let selection = bench::Selection { presets, scale: bench::Scale::Real, ..Default::default() };
    bench::steps_of(&selection, Precision::F32).remove(0)
}

fn planned(name: &str, ranks: &[usize]) -> Planned {
    bench::plan(&CARDS[0], &step(name), ranks).unwrap()
}

/// The sums are those that a trainer makes, and what a rank launches alone is the whole step.
#[test]
fn ranks_exchange_what_the_trainer_does() {
    for name in ["softmax-gan", "mnist", "sngan-projection-32"] {
        let problem = step(name);
        let plan = planned(name, &[1, 8]);
        let [one, strong, _, weak] = &plan.points.iter().flat_map(|point| &point.2).collect::<Vec<_>>()[..] else {
            panic!("{plan:?}")
        };
        let exchanged = zgan::gan::Trainer::exchanged(&problem.setup, 8).unwrap();
        assert_eq!((strong.sums, strong.bytes), (exchanged.len(), exchanged.iter().sum::<usize>() as u64), "{name}");
        let all = problem.setup.with(|s| {
            s.training.batch *= 8;
            s.training.batch_g = s.training.batch_g.map(|fakes| 8 * fakes);
        });
        let exchanged: usize = zgan::gan::Trainer::exchanged(&all, 8).unwrap().iter().sum();
        assert_eq!(weak.bytes, exchanged as u64, "{name}");
        let [graph, _] = &bench::model_step(&CARDS[0], &problem).unwrap()[..] else { panic!() };
        assert_eq!((one.own, one.sums), (graph.total.least, 0), "{name}");
        let (waits, moves) = (strong.waits, strong.moves);
        assert!(waits > 3e-6 * strong.sums as f64 && moves > 1.75 * strong.bytes as f64 / 450e9, "{name}: {strong:?}");
    }
}

#[test]
fn a_plan_adds_up_and_says_where_scaling_ends() {
    let powers: Vec<usize> = (0..=12).map(|power| 1 << power).collect();
    for name in ["softmax-gan", "mnist", "ring"] {
        let problem = step(name);
        let batch = problem.setup.training.batch;
        let plan = bench::plan(&CARDS[0], &problem, &powers).unwrap();
        let points: Vec<_> = plan.points.iter().flat_map(|point| &point.2).collect();
        let of = |growth| points.iter().filter(move |point| point.growth == growth);
        assert_eq!(of(Growth::Strong).count(), 1 + batch.ilog2() as usize, "{name}: no more ranks than images");
        let refused = plan.points.iter().flat_map(|point| point.2.as_ref().err()).next().unwrap();
        assert!(refused.contains("each takes one image at least"), "{name}: {refused}");
        for growth in Growth::ALL {
            let one = of(growth).next().unwrap();
            assert_eq!((one.own, one.waits, one.moves, one.efficiency()), (plan.alone, 0.0, 0.0, 1.0));
        }
        for point in &points {
            assert!(point.efficiency() <= 1.0 && point.exchanging() < 1.0, "{name}: {point:?}");
            assert_eq!(point.images, if point.growth == Growth::Strong { batch.div_ceil(point.ranks) } else { batch });
        }
        for end in &plan.ends {
            let efficiency = |ranks| of(end.growth).find(|point| point.ranks == ranks).map(|point| point.efficiency());
            assert!(efficiency(end.ranks).unwrap() >= 0.5, "{name}: {end:?}");
            assert!(efficiency(2 * end.ranks).is_none_or(|efficiency| efficiency < 0.5), "{name}: {end:?}");
        }
    }
    // A step of perceptrons is short, and their gradients are many: over PCIe their bytes take longer than the step.
    let t4 = CARDS.iter().find(|card| card.name == "t4").unwrap();
    let of = |card| bench::plan(card, &step("softmax-gan"), &[8]).unwrap().points.remove(0).2.unwrap();
    let [fast, slow] = [&CARDS[0], t4].map(of);
    assert!(fast.waits > fast.moves && slow.moves > slow.waits && slow.moves > 8.0 * fast.moves, "{fast:?} {slow:?}");
    let error = bench::plan(&CARDS[0], &step("mnist"), &[0]).unwrap_err().to_string();
    assert!(error.contains("--ranks 0, expected 1 to 4096"), "{error}");
}

#[test]
fn the_program_prints_a_table_csv_and_json() {
    let run_whole = |arguments: &[&str], code: i32| -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        let output = command.env("ZGAN_TUNING", "off").arg("bench").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}{error}");
        (out, error)
    };
    let run = |arguments: &[&str], code: i32| run_whole(&[&["--tiny"], arguments].concat(), code);
    let (table, _) = run(&["--model", "a100", "step, mnist"], 0);
    assert!(table.starts_with("A MODEL, nothing of it is measured"), "{table}");
    assert!(
        table.contains("data sheet") && table.contains("\n  graph ") && table.contains("\n    adam_update_f32 "),
        "{table}"
    );

    let folder = tempfile::tempdir().unwrap();
    run(&["--model", "t4", "--csv", folder.path().to_str().unwrap()], 0);
    let csv = std::fs::read_to_string(folder.path().join("model.csv")).unwrap();
    let mut lines = csv.lines();
    assert!(lines.next().unwrap().starts_with("problem,form,kernel,least_us,"), "{csv}");
    assert!(lines.clone().count() > 100 && lines.all(|line| line.starts_with('"')), "{csv}");

    let measured = ["--model", "h100", "--measure", "--device", "host", "--time", "0", "--json", "matmul"];
    let json: serde_json::Value = serde_json::from_str(&run(&measured, 0).0).unwrap();
    assert_eq!(json["card"], "NVIDIA H100 SXM5 80 GB");
    assert!(json["provenance"]["execution"] == "host" && json["provenance"]["stand_in"] == false, "{json}");
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 4, "{json}");
    for problem in problems {
        assert!(problem["measured_us"].as_f64().unwrap() > 0.0, "{json}");
        assert!(problem["modelled"]["least_us"].as_f64().unwrap() > 0.0, "{json}");
    }

    let (table, _) = run(&["--model", "h100", "--precision", "bf16", "matmul"], 0);
    assert!(table.contains("matmul 5 x 7 x 9 forward, bf16"), "{table}");
    let (_, error) = run(&["--model", "t4", "--precision", "bf16"], 2);
    assert!(error.contains("has no tensor bf16"), "{error}");

    let (_, error) = run(&["--model", "v100"], 2);
    let all = "h100, h100-pcie, h200, a100, a100-40gb, l40s, rtx4090, rtx5090, t4";
    assert!(error.contains(&format!("\"v100\"; there are {all}, and auto")), "{error}");
    // The CPU is no card, and is told so with the list.
    let (_, error) = run(&["--model", "auto", "--device", "host"], 2);
    assert!(error.contains("no rates of \"host ") && error.contains(&format!("--model takes {all}")), "{error}");

    // A preset that is named is modelled at the size that it trains with, and alone.
    let real = ["--model", "h200", "--preset", "sngan-projection-32", "--precision", "f32,bf16"];
    run_whole(&[&real[..], &["--csv", folder.path().to_str().unwrap()]].concat(), 0);
    let csv = std::fs::read_to_string(folder.path().join("model.csv")).unwrap();
    let mut names: Vec<&str> = csv.lines().skip(1).map(|line| line.split('"').nth(1).unwrap()).collect();
    names.dedup();
    let name = "step, sngan-projection-32, width 128, batch 64 (128 fakes), alternating, n_dis 5";
    assert_eq!(names, [name.to_string(), format!("{name}, bf16")]);
    let ranks = ["--model", "h100", "--ranks", "2,64"];
    let (table, _) = run_whole(&[&ranks[..], &["--preset", "mnist,softmax-gan"]].concat(), 0);
    assert!(table.starts_with("A MODEL, nothing of it is measured: ranks with an NVIDIA H100 SXM5"), "{table}");
    assert!(table.matches("  strong: efficiency 50 % or more up to ").count() == 2, "{table}");
    let (json, _) =
        run(&[&ranks[..], &["--json", "--csv", folder.path().to_str().unwrap(), "step, mnist"]].concat(), 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["problems"][0]["points"][1]["refused"].as_str().unwrap().contains("one image at least"), "{json}");
    assert!(json["problems"][0]["points"][3]["efficiency"].as_f64().unwrap() > 0.0, "{json}");
    let csv = std::fs::read_to_string(folder.path().join("ranks.csv")).unwrap();
    assert!(
        csv.starts_with("problem,scaling,ranks,images_per_rank,sums,bytes,step_us,") && csv.lines().count() == 4,
        "{csv}"
    );
    let (_, error) = run(&["--model", "h100", "--ranks", "0"], 2);
    assert!(error.contains("--ranks 0, expected 1 to 4096"), "{error}");
    run(&["--ranks", "8"], 2);
    run(&["--measure"], 2);
    let (_, error) = run(&["--model", "t4", "nonsense"], 2);
    assert!(error.contains("\"nonsense\""), "{error}");
}
