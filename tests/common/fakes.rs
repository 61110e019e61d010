//! Small libraries in the place of NVIDIA's, compiled by the test that uses them.
#![allow(dead_code)]

use std::path::Path;

/// What a libnvrtc does, as far as it matters here. Its code for a GPU is the file of the program's name in the folder `MADE`,
/// or else its own name.
const NVRTC: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static const char *log = "";
static int made(const char *name, size_t *n, char *to) {
#ifdef MADE
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", MADE, name);
    FILE *file = fopen(path, "rb");
    if (file && to) return *n = fread(to, 1, *n, file), fclose(file), 0;
    if (file) return fseek(file, 0, SEEK_END), *n = ftell(file), fclose(file), 0;
#endif
    if (to) memcpy(to, NAME, sizeof NAME);
    return *n = sizeof NAME, 0;
}
int nvrtcVersion(int *major, int *minor) { return *major = MAJOR, *minor = 0; }
static const int capabilities[] = {CAPABILITIES};
int nvrtcGetNumSupportedArchs(int *n) { return *n = sizeof capabilities / sizeof *capabilities, 0; }
int nvrtcGetSupportedArchs(int *to) { return memcpy(to, capabilities, sizeof capabilities), 0; }
int nvrtcCreateProgram(void **p, const char *text, const char *name, int n, void *c, void *d) { return *p = strdup(name), 0; }
int nvrtcDestroyProgram(void **p) { return free(*p), 0; }
int nvrtcGetProgramLogSize(void *p, size_t *n) { return *n = strlen(log) + 1, 0; }
int nvrtcGetProgramLog(void *p, char *to) { return strcpy(to, log), 0; }
int nvrtcCompileProgram(void *p, int n, void *options) {
#ifdef BUILTINS
    if (!dlopen(BUILTINS, RTLD_NOW)) return log = "failed to open " BUILTINS, 7;
#endif
    return 0;
}
int nvrtcGetPTXSize(void *p, size_t *n) { return made(p, n, 0); }
int nvrtcGetPTX(void *p, char *to) { size_t n; return made(p, &n, 0) || made(p, &n, to); }
#ifndef TOO_OLD
int nvrtcGetCUBINSize(void *p, size_t *n) { return made(p, n, 0); }
int nvrtcGetCUBIN(void *p, char *to) { size_t n; return made(p, &n, 0) || made(p, &n, to); }
#endif
"#;

/// A libnvrtc of this major version that makes code for these capabilities. `more` are other definitions of its text:
/// `TOO_OLD`, `BUILTINS="FILE"` for the library that it cannot do without, and `MADE="FOLDER"`.
pub fn nvrtc(path: &Path, major: u32, capabilities: &str, more: &[&str]) {
    let name = path.display();
    let own = [format!("MAJOR={major}"), format!("CAPABILITIES={capabilities}"), format!("NAME=\"{name}\"")];
    library(path, NVRTC, own.iter().map(String::as_str).chain(more.iter().copied()));
}

pub fn builtins(path: &Path) {
    library(path, "", []);
}

/// The library with which programs are linked where no driver is, from the folder `stubs` of a CUDA toolkit.
pub fn stub_of_libcuda(path: &Path) {
    let text = ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuGetErrorString", "cuGetErrorName"]
        .map(|name| format!("int {name}() {{ return 34; }}\n"));
    library(path, &text.concat(), []);
}

fn library<'a>(path: &Path, text: &str, definitions: impl IntoIterator<Item = &'a str>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = path.with_extension("c");
    std::fs::write(&source, text).unwrap();
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    let compiler = build.opt_level(0).target(&machine).host(&machine).cargo_metadata(false).get_compiler();
    let mut command = compiler.to_command();
    let name = path.file_name().unwrap().to_str().unwrap();
    command
        .args(["-shared", "-fPIC", "-w", &format!("-Wl,-soname,{name}")])
        .args(definitions.into_iter().map(|definition| format!("-D{definition}")));
    let output = command.arg(&source).arg("-o").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
