//! A clock that is wrong, for one process and what it starts with its environment. The machine's own stays right.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// See the module; it can be set again while the process runs.
#[derive(Debug)]
pub struct WrongClock {
    file: PathBuf,
    library: PathBuf,
}

impl WrongClock {
    /// One that is `seconds` ahead; what it needs lies in `directory`, which is made.
    ///
    /// # Panics
    /// When there is no C compiler (`make setup` installs one).
    #[must_use]
    pub fn ahead(directory: &Path, seconds: i64) -> Self {
        fs::create_dir_all(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let [source, library, file] = ["clock.c", "clock.so", "clock"].map(|name| directory.join(name));
        fs::write(&source, include_str!("clock.c")).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let mut compiler = Command::new("cc");
        let output = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let output = output.unwrap_or_else(|error| panic!("tests with wrong clocks need a C compiler (`cc`): {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let clock = Self { file, library };
        clock.set(seconds);
        clock
    }

    /// Makes it so many seconds ahead from now on; negative: behind.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) {
        // In place: the process has mapped it.
        let mut file = File::options().create(true).truncate(false).write(true).open(&self.file);
        let written = file.as_mut().map(|file| file.write_all(&seconds.to_ne_bytes()));
        assert!(written.is_ok_and(|written| written.is_ok()), "{} cannot be written", self.file.display());
    }

    /// What the environment of a process needs, that it sees this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library.clone().into()), ("CORACLE_TEST_CLOCK", self.file.clone().into())]
    }
}
