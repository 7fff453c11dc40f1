//! A guest that behaves badly: `misfit spin` computes for ever, `misfit hoard` takes memory until there is no more, and
//! `misfit quit` ends at once.

use std::{env, hint::black_box, process::ExitCode};

/// How much `hoard` takes at a time.
const PIECE_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("spin") => spin(),
        Some("hoard") => hoard(),
        Some("quit") => {
            println!("enough");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("usage: misfit spin|hoard|quit");
            ExitCode::FAILURE
        }
    }
}

fn spin() -> ExitCode {
    println!("spinning");
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn hoard() -> ExitCode {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1_u8; PIECE_BYTES]);
        println!("{} MiB, and more", black_box(&hoard).len());
    }
}
