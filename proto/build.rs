//! Compiles the protocol definitions without protoc, and lists the pattern files for embedding.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    list_patterns()?;
    compile_protocols()
}

/// Writes the messages as Rust and their descriptors, which the service hands to reflection clients.
fn compile_protocols() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = env::var("OUT_DIR")?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files([
        "envoy/service/auth/v3/external_auth.proto",
        "envoy/service/ext_proc/v3/external_processor.proto",
    ])?;
    fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .btree_map(".")
        .include_file("envoy_api.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Writes `FILES`, name and text of each `patterns/*.yaml` and `patterns/*/*.yaml`.
fn list_patterns() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("patterns");
    let mut names = Vec::new();
    collect_patterns(&folder, "", &mut names)?;
    names.sort();
    let mut list = String::from("pub(super) const FILES: &[(&str, &str)] = &[\n");
    for name in names {
        list.push_str(&format!(
            "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/patterns/{name}\"))),\n"
        ));
    }
    list.push_str("];\n");
    Ok(fs::write(Path::new(&env::var("OUT_DIR")?).join("patterns.rs"), list)?)
}

/// Adds the names of the pattern files of a folder, with `prefix` before them; looks into the folders of the first level.
fn collect_patterns(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() && prefix.is_empty() {
            collect_patterns(&entry.path(), &format!("{name}/"), names)?;
        } else if name.ends_with(".yaml") {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            names.push(name);
        }
    }
    Ok(())
}
