//! Servers on disks that hold an image, under the shim.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rand::{Rng, rngs::StdRng};

use super::{Image, Keep, Names};
use crate::crash::server::Setup;

/// How names become durable and what is kept, at random.
pub(crate) fn choices(random: &mut StdRng) -> (Names, Keep) {
    let names = [Names::ByDirectory, Names::ByAnySync][random.random_range(0..2)];
    let keep = [Keep::Nothing, Keep::Sectors(0.5), Keep::Sectors(0.95)][random.random_range(0..3)];
    (names, keep)
}

/// So many of the folders are there at once.
const FOLDERS: usize = 4;

/// Folders for one server after the other. The last ones stay if the test fails.
pub(crate) struct Bench {
    folder: PathBuf,
    services: &'static [&'static str],
    count: usize,
}

impl Bench {
    /// For servers with these services.
    pub(crate) fn new(services: &'static [&'static str]) -> Self {
        let folder = tempfile::Builder::new().prefix("flotilla-power-cut-").tempdir().expect("a folder").keep();
        eprintln!("folders of this test, kept if it fails: {}", folder.display());
        Self { folder, services, count: 0 }
    }

    /// A new folder.
    pub(crate) fn next_folder(&mut self) -> PathBuf {
        self.count += 1;
        if let Some(old) = self.count.checked_sub(FOLDERS).filter(|old| *old > 0) {
            fs::remove_dir_all(self.folder.join(old.to_string())).expect("an old folder removed");
        }
        let folder = self.folder.join(self.count.to_string());
        fs::create_dir(&folder).expect("a folder");
        folder
    }

    /// A server on a disk that holds an image, its files followed or not; the journal's path.
    pub(crate) fn setup(&mut self, image: &Image, followed: bool) -> (Setup, PathBuf) {
        let folder = self.next_folder();
        let (disk, journal) = (folder.join("disk"), folder.join("journal"));
        image.write_to(&disk);
        let mut setup = Setup::new(&folder, &disk.join("data"));
        setup.services = self.services;
        setup.limits = "feed_retention_size = \"16 MiB\"\nsnapshot_log = \"64 KiB\"\nmin_free_disk = \"1 MiB\"".into();
        if followed {
            setup.environment = environment(&disk, &journal);
        }
        (setup, journal)
    }

    /// The test has passed.
    pub(crate) fn clear(self) {
        fs::remove_dir_all(&self.folder).expect("the folders removed");
    }
}

/// The variables that put a process under the shim.
pub(crate) fn environment(disk: &Path, journal: &Path) -> Vec<(&'static str, OsString)> {
    vec![("LD_PRELOAD", shim().into()), ("POWERCUT_DIR", disk.into()), ("POWERCUT_JOURNAL", journal.into())]
}

/// Builds the shim, once.
fn shim() -> PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/powercut/shim.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../powercut");
        fs::create_dir_all(&folder).expect("a folder for the shim");
        let (new, shim) = (folder.join(format!("shim-{}.so", std::process::id())), folder.join("shim.so"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&new).arg(&source);
        let built = cc.args(["-ldl", "-lpthread"]).status().expect("cc (Debian: apt-get install gcc)");
        assert!(built.success(), "cc could not build {}", source.display());
        fs::rename(&new, &shim).expect("the shim in its place");
        shim.canonicalize().expect("the shim")
    })
    .clone()
}
