//! probe
use zgan::device::Device;
use zgan::ops::log_partition::{self, Evaluation};
#[test]
fn thin() {
    let device = Device::simt_checked(3);
    let (n, m) = (5000, 4000);
    let out = Evaluation { statistics: device.zeros(4).unwrap(), seed_d: device.zeros(n + m).unwrap(), seed_g: device.zeros(m).unwrap() };
    let real = device.upload(&vec![1.0f32; n]).unwrap();
    let fake = device.upload(&vec![1.0f32; m]).unwrap();
    let workspace = device.zeros(log_partition::workspace_len(&device, n + m)).unwrap();
    log_partition::fused(&out, &real, &fake, 1.0, &workspace).unwrap();
    let seen = device.seen();
    for f in &seen.findings { println!("{f}"); }
    println!("{:?}", seen.kernels);
    println!("{:?}", out.statistics.read());
}
