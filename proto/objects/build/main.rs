//! Derives the field table from the schemas of `k8s-openapi` and the hand-written list rules in [`lists`].
//!
//! The result is Rust source in `OUT_DIR`: static data that the crate includes. Upstream's descriptions are in the
//! binary for `kubectl explain` that way without being in this repository.

mod emit;
mod lists;
mod roots;

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let definitions = roots::definitions();
    let source = emit::table(&definitions)?;
    let directory = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    fs::write(Path::new(&directory).join("field_table.rs"), source)?;
    #[expect(clippy::print_stdout, reason = "the way a build script speaks to cargo")]
    {
        println!("cargo::rerun-if-changed=build");
    }
    Ok(())
}
