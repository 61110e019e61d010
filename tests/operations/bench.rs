//! What `zgan bench` times: the forms of a problem give the same results, on every device.

use std::time::Duration;

use crate::common::on_each_device;
use zgan::instruments::bench::{self, Caches, Settings};

#[test]
fn the_forms_of_every_problem_agree_on_every_device() {
    on_each_device(|device| {
        let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
        for problem in bench::problems(true) {
            let measured = bench::measure(device, &problem, settings).unwrap();
            assert_eq!(measured.len(), (problem.make)(device).unwrap().len());
            for form in measured {
                let counted = form.launches > 0 && form.bytes > 0;
                assert!(form.seconds > 0.0 && (counted || form.form == "libtorch"), "{}: {form:?}", problem.name());
            }
        }
    });
}
