//! Commands that every container has where its image brings none of the name: what `kubectl cp` runs. They are a guest
//! that comes with the agent and runs like the image's own modules, so that nothing is within their reach that is not within
//! the container's. An image's module of the name always goes first.

use coracle_images::{ImageModule, file_sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Built from `node/tools` by `examples/build.sh`.
const WASM: &[u8] = include_bytes!("../../tools/tools.wasm");
/// Questions that the built-in `test` answers: its other uses are left to the container's own module.
const QUESTIONS: [&str; 3] = ["-d", "-e", "-f"];

/// See the module.
pub(crate) struct Tools {
    path: PathBuf,
    digest: String,
}

impl Tools {
    /// Puts the module where the compiler finds it, below the node's directory.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let directory = data_dir.join("tools");
        fs::create_dir_all(&directory)?;
        // Written anew each time: another version's may be there, or half of this one's.
        let path = directory.join("tools.wasm");
        let unfinished = directory.join("tools.wasm.new");
        fs::write(&unfinished, WASM)?;
        fs::rename(&unfinished, &path)?;
        let digest = format!("sha256:{}", file_sha256(&path)?);
        Ok(Self { path, digest })
    }

    /// The module for a command, if it is one of these. `name` is what its first word names.
    pub(crate) fn module(&self, name: &str, command: &[String]) -> Option<ImageModule> {
        is_known(name, command).then(|| ImageModule {
            name: name.to_owned(),
            digest: self.digest.clone(),
            path: self.path.clone(),
        })
    }
}

fn is_known(name: &str, command: &[String]) -> bool {
    match name {
        "tar" => true,
        "test" => matches!(command, [_, question, _] if QUESTIONS.contains(&question.as_str())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_offered() {
        let directory = tempfile::tempdir().unwrap();
        let tools = Tools::open(directory.path()).unwrap();
        for (command, known) in [
            (&["tar", "cf", "-", "/data"][..], true),
            (&["tar"], true),
            (&["test", "-d", "/data"], true),
            (&["test", "-d"], false),
            (&["test", "all", "of"], false),
            (&["ls"], false),
        ] {
            let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            let module = tools.module(&command[0], &command);
            assert_eq!(module.is_some(), known, "{command:?}");
            assert!(module.is_none_or(|module| module.verify().unwrap()));
        }
        // As when the agent starts again.
        Tools::open(directory.path()).unwrap();
    }
}
