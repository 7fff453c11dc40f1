//! One guest that does whatever a test wants: `toolbox COMMAND [ARGUMENT…]`.
//!
//! Several commands may be given, separated by `--`; they run one after another.

use std::{
    env, fs,
    hint::black_box,
    io::{self, IsTerminal, Read, Write},
    process, thread,
    time::Duration,
};

const USAGE: &str = "commands: exit CODE | fail | panic | trap | spin | args | env | echo TEXT… | \
    warn TEXT… | cat PATH… | write PATH TEXT | append PATH TEXT | list PATH | remove PATH | mkdir PATH | \
    rename FROM TO | link FROM TO | size PATH | alloc MIB | grab MIB | flood LINES | fill BYTES | wait-eof | sleep SECONDS | \
    count SECONDS | copy | tally | terminal";

type Outcome = Result<(), String>;

fn main() -> Result<(), String> {
    let words = env::args().skip(1).collect::<Vec<_>>();
    if words.is_empty() {
        return Err(USAGE.to_owned());
    }
    words.split(|word| word == "--").try_for_each(run)
}

fn run(words: &[String]) -> Outcome {
    let (command, rest) = words.split_first().ok_or(USAGE)?;
    let rest = rest.iter().map(String::as_str).collect::<Vec<_>>();
    match (command.as_str(), rest.as_slice()) {
        ("exit", [code]) => process::exit(number(code)?),
        ("fail", []) => Err("told to fail".to_owned()),
        ("panic", []) => panic!("told to panic"),
        ("trap", []) => tread_on_it(),
        ("spin", []) => spin(),
        ("args", []) => Ok(env::args().for_each(|word| println!("{word}"))),
        ("env", []) => Ok(environment()),
        ("echo", text) => Ok(println!("{}", text.join(" "))),
        ("warn", text) => Ok(eprintln!("{}", text.join(" "))),
        ("alloc", [mib]) => Ok(allocate(number(mib)?)),
        ("grab", [mib]) => grab(number(mib)?),
        ("flood", [lines]) => flood(number(lines)?),
        ("fill", [bytes]) => fill(number(bytes)?),
        ("wait-eof", []) => wait_for_end_of_input(),
        ("sleep", [seconds]) => Ok(thread::sleep(Duration::from_secs_f64(number(seconds)?))),
        ("count", [seconds]) => count(number(seconds)?),
        ("copy", []) => copy(),
        ("tally", []) => tally(),
        ("terminal", []) => Ok(terminal()),
        _ => files(command, &rest),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number\n{USAGE}"))
}

#[inline(never)]
fn tread_on_it() -> Outcome {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    process::abort();
}

fn spin() -> Outcome {
    println!("spinning");
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn environment() {
    let mut variables = env::vars().collect::<Vec<_>>();
    variables.sort();
    for (name, value) in variables {
        println!("{name}={value}");
    }
}

/// Panics, as Rust does, when there is no memory: tests see whether the host is faster.
fn allocate(mib: usize) {
    let mut kept = Vec::new();
    for _ in 0..mib {
        kept.push(vec![1_u8; 1 << 20]);
    }
    println!("allocated {} MiB", black_box(&kept).len());
}

/// Asks politely and goes on when there is no memory.
fn grab(mib: usize) -> Outcome {
    let mut bytes = Vec::<u8>::new();
    match bytes.try_reserve_exact(mib << 20) {
        Ok(()) => println!("got {mib} MiB"),
        Err(_) => println!("got nothing, going on"),
    }
    Ok(())
}

fn flood(lines: u64) -> Outcome {
    let mut out = io::stdout().lock();
    for line in 0..lines {
        writeln!(out, "line {line:09} of a flood that nobody asked for").map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One line of many bytes.
fn fill(bytes: usize) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(&vec![b'x'; bytes]).and_then(|()| out.flush()).map_err(|error| error.to_string())
}

fn wait_for_end_of_input() -> Outcome {
    println!("waiting");
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input).map_err(|error| error.to_string())?;
    println!("bye");
    Ok(())
}

/// Standard input to standard output, as it comes.
fn copy() -> Outcome {
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut piece = [0; 8 << 10];
    loop {
        let count = input.read(&mut piece).map_err(|error| error.to_string())?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&piece[..count]).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    }
}

/// How many bytes come on standard input, and what they add up to.
fn tally() -> Outcome {
    let (mut bytes, mut sum) = (0_u64, 0_u64);
    for byte in io::BufReader::new(io::stdin().lock()).bytes() {
        bytes += 1;
        sum += u64::from(byte.map_err(|error| error.to_string())?);
    }
    println!("{bytes} bytes, sum {sum}");
    Ok(())
}

/// Which of the standard streams are a terminal.
fn terminal() {
    let streams = [
        ("stdin", io::stdin().is_terminal()),
        ("stdout", io::stdout().is_terminal()),
        ("stderr", io::stderr().is_terminal()),
    ];
    let found: Vec<_> = streams.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    println!("terminals: {}", if found.is_empty() { "none".to_owned() } else { found.join(" ") });
}

/// A line every so often, for ever.
fn count(seconds: f64) -> Outcome {
    for turn in 0_u64.. {
        println!("{turn}");
        thread::sleep(Duration::from_secs_f64(seconds));
    }
    Ok(())
}

/// The kind of an error where the standard library has one for it.
fn reason(error: &io::Error) -> String {
    match error.kind().to_string() {
        kind if kind == "uncategorized error" => error.to_string(),
        kind => kind,
    }
}

/// What happened to the files is printed, never returned: a test sees all of it.
fn files(command: &str, paths: &[&str]) -> Outcome {
    let say = |result: io::Result<String>| match result {
        Ok(text) => println!("{text}"),
        Err(error) => println!("{command} {}: {}", paths.join(" "), reason(&error)),
    };
    let done = |()| "done".to_owned();
    match (command, paths) {
        ("cat", paths) => paths.iter().for_each(|path| say(fs::read_to_string(path))),
        ("write", [path, text]) => say(fs::write(path, text).map(done)),
        ("append", [path, text]) => {
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            say(file.and_then(|mut file| file.write_all(text.as_bytes())).map(done));
        }
        ("list", [path]) => say(fs::read_dir(path).map(|entries| {
            let mut names = entries
                .filter_map(Result::ok)
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect::<Vec<_>>();
            names.sort();
            names.join(" ")
        })),
        ("remove", [path]) => say(fs::remove_file(path).map(done)),
        ("mkdir", [path]) => say(fs::create_dir(path).map(done)),
        ("rename", [from, to]) => say(fs::rename(from, to).map(done)),
        ("link", [from, to]) => say(symlink(from, to).map(done)),
        ("size", [path]) => say(fs::metadata(path).map(|data| data.len().to_string())),
        _ => return Err(format!("what is {command:?} with {} arguments?\n{USAGE}", paths.len())),
    }
    Ok(())
}

#[cfg(target_os = "wasi")]
fn symlink(from: &str, to: &str) -> io::Result<()> {
    unsafe extern "C" {
        fn symlink(from: *const std::ffi::c_char, to: *const std::ffi::c_char) -> i32;
    }
    let (from, to) = (std::ffi::CString::new(from)?, std::ffi::CString::new(to)?);
    // SAFETY: wasi-libc's function of that name, with two strings that outlive the call.
    if unsafe { symlink(from.as_ptr(), to.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "wasi"))]
fn symlink(from: &str, to: &str) -> io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}
