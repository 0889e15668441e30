//! The `.proto` files of this crate, found by walking `flotilla/` and compiled in memory.

use std::path::{Path, PathBuf};

/// This crate's directory, the root of all import paths.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles every file under `flotilla/`, in the order of their names, with what they import and
/// with their comments.
pub(crate) fn compile() -> protox::Compiler {
    let mut files = Vec::new();
    find_protos(&root().join("flotilla"), &mut files);
    files.sort();
    let mut compiler = protox::Compiler::new([root()]).expect("the root is a directory");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files).unwrap_or_else(|error| panic!("the .proto files don't compile: {error:?}"));
    compiler
}

fn find_protos(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().expect("the directory is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            find_protos(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
}
