//! Generates the gRPC code and the descriptor set that server reflection serves.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["objects", "sessions", "nodelink", "peer"].map(|name| format!("proto/coracle/v1/{name}.proto"));
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("coracle.v1.bin");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptor)
        .bytes(".")
        .compile_protos(&files, &["proto".to_owned()])?;
    Ok(())
}
