//! A server's wall clock and disk, by `ci/faults/machine.c`: both change while it runs.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

/// One server's.
pub(crate) struct Machine {
    path: PathBuf,
    file: File,
}

impl Machine {
    /// A clock that is right and a disk as fast as it is, told in a file.
    pub(crate) fn new(path: &Path) -> Self {
        let options = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
        let machine = Self { path: path.to_path_buf(), file: options.expect("a file") };
        machine.set(0, 0);
        machine.set(8, 0);
        machine
    }

    /// The variables that a server is started with.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", shim().into()), ("MACHINE", self.path.clone().into())]
    }

    /// From now on the wall clock goes so many seconds before or, if negative, behind.
    pub(crate) fn move_clock(&self, seconds: i64) {
        self.set(0, seconds * 1_000_000_000);
    }

    /// From now on each sync takes so much more.
    pub(crate) fn slow_disk(&self, delay: Duration) {
        self.set(8, delay.as_nanos() as i64);
    }

    fn set(&self, at: u64, nanoseconds: i64) {
        self.file.write_all_at(&nanoseconds.to_ne_bytes(), at).expect("a number written");
    }
}

/// Builds it, once.
fn shim() -> PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/faults/machine.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../faults");
        fs::create_dir_all(&folder).expect("a folder for the shim");
        let (new, shim) = (folder.join(format!("machine-{}.so", std::process::id())), folder.join("machine.so"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&new).arg(&source);
        let built = cc.status().expect("cc (Debian: apt-get install gcc)");
        assert!(built.success(), "cc could not build {}", source.display());
        fs::rename(&new, &shim).expect("the shim in its place");
        shim.canonicalize().expect("the shim")
    })
    .clone()
}
