//! Parses the command line, runs the verb, maps the error to text and exit code.

fn main() -> std::process::ExitCode {
    lazyroot::cli::main()
}
