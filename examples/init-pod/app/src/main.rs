//! The application of the example: says that it runs, and stays until it is asked to stop.

use std::io::{self, Read};

fn main() {
    println!("The app is running!");
    // Coracle asks a guest to stop by ending its standard input.
    let mut nothing = [0; 64];
    while matches!(io::stdin().read(&mut nothing), Ok(1..)) {}
    println!("The app has been asked to stop.");
}
