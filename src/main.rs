//! The program `zgan`: parses the command line, calls the library, sets the exit code.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
