//! Small file systems in memory, to see what a full disk does. Needs root.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted tmpfs; unmounted when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `mib` MiB at `path`, which is made.
    ///
    /// # Panics
    /// When it cannot be mounted: these tests must run as root.
    #[must_use]
    pub fn mount(path: &Path, mib: u32) -> Self {
        fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "coracle-test"])
            .arg(path)
            .output()
            .unwrap_or_else(|error| panic!("mount does not run: {error}"));
        assert!(output.status.success(), "a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&output.stderr));
        Self { path: path.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all the space that is left.
    ///
    /// # Panics
    /// When writing fails for another reason than a full disk.
    pub fn fill(&self) {
        let mut file =
            File::options().append(true).create(true).open(self.filler()).unwrap_or_else(|error| panic!("{error}"));
        let mut size = 1 << 20;
        while size > 0 {
            match file.write_all(&vec![1_u8; size]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => size /= 2,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still stand in it.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}
