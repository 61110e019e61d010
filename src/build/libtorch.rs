//! What the comparison with libtorch needs beyond the crate tch, and where programs find that libtorch.

use std::path::PathBuf;

pub fn compile(linted: bool) {
    const FILE: &str = "src/instruments/bench/libtorch/native.cpp";
    println!("cargo:rerun-if-changed={FILE}");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        eprintln!("the feature libtorch needs LIBTORCH, the folder of a libtorch 2.13: eval \"$(scripts/libtorch)\"");
        std::process::exit(1);
    };
    if !linted {
        let include = libtorch.join("include");
        let mut build = cc::Build::new();
        build.cpp(true).std("c++20").warnings(false).debug(false).file(FILE);
        build.include(&include).include(include.join("torch/csrc/api/include")).compile("zgan_libtorch");
    }
    let lib = libtorch.join("lib").display().to_string();
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // Found without LD_LIBRARY_PATH, its own dependencies too; and linked though nothing names a symbol of it, for its
    // CUDA half registers itself when it is loaded.
    for argument in [&format!("-Wl,-rpath,{lib}"), "-Wl,--disable-new-dtags", "-Wl,--no-as-needed", "-ltorch"] {
        println!("cargo:rustc-link-arg={argument}");
    }
}
