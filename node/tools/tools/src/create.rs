//! `tar -c`: files and directories to standard output.

use crate::header::{BLOCK_BYTES, DIRECTORY, FILE, Header, SYMBOLIC_LINK, padding};
use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _, Write},
    path::Path,
    time::UNIX_EPOCH,
};

/// Directories inside of each other.
const DEPTH_MAX: usize = 128;

pub fn run(directory: &Path, paths: &[String]) -> Result<(), String> {
    if paths.is_empty() {
        return Err("an archive of nothing is not made".to_owned());
    }
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for path in paths {
        let name = path.trim_start_matches('/');
        add(&mut out, &directory.join(path), if name.is_empty() { "." } else { name }, 0)?;
    }
    let end = out.write_all(&[0; 2 * BLOCK_BYTES]).and_then(|()| out.flush());
    end.map_err(|error| format!("cannot write: {error}"))
}

fn add(out: &mut impl Write, path: &Path, name: &str, depth: usize) -> Result<(), String> {
    let wrong = |error: io::Error| format!("{}: {error}", path.display());
    let found = fs::symlink_metadata(path).map_err(wrong)?;
    let name = name.trim_end_matches('/').to_owned();
    let time = time(&found);
    if found.is_dir() {
        if depth >= DEPTH_MAX {
            return Err(format!("{}: too many directories inside of each other", path.display()));
        }
        let header = Header { name: format!("{name}/"), kind: DIRECTORY, time, ..Header::default() };
        out.write_all(&header.to_bytes()).map_err(wrong)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(wrong)? {
            names.push(entry.map_err(wrong)?.file_name());
        }
        names.sort();
        for one in names {
            let below = format!("{name}/{}", one.to_string_lossy());
            add(out, &path.join(&one), &below, depth + 1)?;
        }
        return Ok(());
    }
    if found.is_symlink() {
        let link = fs::read_link(path).map_err(wrong)?.to_string_lossy().into_owned();
        let header = Header { name, link, kind: SYMBOLIC_LINK, time, ..Header::default() };
        return out.write_all(&header.to_bytes()).map_err(wrong);
    }
    if !found.is_file() {
        eprintln!("tar: {}: neither file nor directory, left out", path.display());
        return Ok(());
    }
    let size = found.len();
    let file = File::open(path).map_err(wrong)?;
    out.write_all(&Header { name, kind: FILE, size, time, ..Header::default() }.to_bytes()).map_err(wrong)?;
    let copied = io::copy(&mut file.take(size), out).map_err(wrong)?;
    if copied < size {
        // It was cut meanwhile; the archive must be right all the same.
        eprintln!("tar: {}: it shrank by {} bytes; padding with zeros", path.display(), size - copied);
        io::copy(&mut io::repeat(0).take(size - copied), out).map_err(wrong)?;
    }
    out.write_all(&[0; BLOCK_BYTES][..padding(size)]).map_err(wrong)
}

fn time(found: &Metadata) -> u64 {
    let since = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}
