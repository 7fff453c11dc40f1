//! The commands that `kubectl cp` runs in a container, for images that have none: `tar`, and `test` as far as it asks. They
//! are guests like any other: what they can reach is what the container can, within the same limits.

mod create;
mod extract;
mod header;

use std::{env, path::PathBuf, process::ExitCode};

/// What `tar` and `test` end with when something is wrong with the request or went wrong.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let Some((command, rest)) = words.split_first() else { return ExitCode::from(FAILED) };
    let name = command.rsplit('/').next().unwrap_or(command);
    match name {
        "test" => test(rest),
        _ => match tar(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tar: {error}");
                ExitCode::from(FAILED)
            }
        },
    }
}

/// `test -d PATH`, `-e`, `-f`.
fn test(words: &[String]) -> ExitCode {
    let [question, path] = words else {
        eprintln!("test: this one only knows -d, -e and -f with a path");
        return ExitCode::from(FAILED);
    };
    let found = std::fs::metadata(path);
    let yes = match question.as_str() {
        "-d" => found.is_ok_and(|file| file.is_dir()),
        "-f" => found.is_ok_and(|file| file.is_file()),
        "-e" => found.is_ok(),
        _ => {
            eprintln!("test: this one does not know {question}");
            return ExitCode::from(FAILED);
        }
    };
    ExitCode::from(u8::from(!yes))
}

/// What `tar` is asked.
#[derive(Default)]
struct Asked {
    create: bool,
    extract: bool,
    file: Option<String>,
    directory: PathBuf,
    paths: Vec<String>,
}

fn tar(words: &[String]) -> Result<(), String> {
    let asked = parse(words)?;
    if asked.file.as_deref() != Some("-") {
        return Err("archives are only read from standard input and written to standard output (-f -)".to_owned());
    }
    match (asked.create, asked.extract) {
        (true, false) => create::run(&asked.directory, &asked.paths),
        (false, true) => extract::run(&asked.directory),
        _ => Err("one of -c and -x is needed".to_owned()),
    }
}

/// Options as GNU's `tar` has them, with or without a dash in front of the first.
fn parse(words: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut words = words.iter().enumerate();
    let mut only_paths = false;
    while let Some((number, word)) = words.next() {
        if only_paths || (number > 0 && !word.starts_with('-')) {
            asked.paths.push(word.clone());
            continue;
        }
        match word.as_str() {
            "--" => only_paths = true,
            // Nobody owns anything here, and there are no modes.
            "--no-same-permissions" | "--no-same-owner" | "--no-overwrite-dir" => {}
            _ if word.starts_with("--") => return Err(format!("this one does not know {word}")),
            _ => {
                for letter in word.trim_start_matches('-').chars() {
                    let mut value = || words.next().map(|(_, word)| word.clone());
                    match letter {
                        'c' => asked.create = true,
                        'x' => asked.extract = true,
                        'f' => asked.file = Some(value().ok_or("-f needs a file")?),
                        'C' => asked.directory = value().ok_or("-C needs a directory")?.into(),
                        // Times are not kept, and neither are owners and modes.
                        'm' | 'o' | 'p' => {}
                        _ => return Err(format!("this one does not know -{letter}")),
                    }
                }
            }
        }
    }
    Ok(asked)
}
