//! The binary `flotilla`.

use std::{panic, process::ExitCode};

use clap::Parser;
use flotilla::cli::{self, Arguments};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a bug, as `sysexits.h` counts.
const BUG: u8 = 70;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return cli::usage(&error),
    };
    // The panic itself has told what it was.
    match panic::catch_unwind(|| cli::run(arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(_) => ExitCode::from(BUG),
    }
}
