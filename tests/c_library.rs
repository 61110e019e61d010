//! `scripts/c-library`: its functions in a C program, and in PyTorch as docs/from-pytorch.md has them.

use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said.concat());
}

fn library(folder: &Path) {
    run(Command::new(Path::new(ROOT).join("scripts/c-library")).arg(folder).env("CXXFLAGS", "-Wall -Wextra -Werror"));
}

#[test]
fn a_c_program_computes_what_float64_does() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path());
    let program = folder.path().join("log_partition");
    // As strict as C was: the header is for all compilers.
    run(Command::new(std::env::var("CC").unwrap_or("cc".into()))
        .args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-I"])
        .arg(folder.path())
        .arg(Path::new(ROOT).join("tests/c/log_partition.c"))
        .arg(folder.path().join("libzgan_kernels.so"))
        .args(["-lm", "-o"])
        .arg(&program));
    run(&mut Command::new(program));
}

/// The first block of the page, the one for a CPU, and the comparison with PyTorch, as one program.
#[test]
fn the_lines_for_pytorch_are_right() {
    let python = std::env::var("ZGAN_PYTHON").unwrap_or("python3".into());
    if !Command::new(&python).args(["-c", "import torch"]).output().is_ok_and(|output| output.status.success()) {
        println!("left out: {python} has no torch");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    library(folder.path());
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/from-pytorch.md")).unwrap();
    let blocks: Vec<&str> = page.split("```python\n").skip(1).filter_map(|rest| rest.split("```\n").next()).collect();
    let (gpu, rest): (Vec<&str>, Vec<&str>) = blocks.iter().partition(|block| block.contains("cupy"));
    assert_eq!((gpu.len(), rest.len()), (1, 3));
    run(Command::new(python).arg("-c").arg(rest.concat()).current_dir(folder.path()));
}
