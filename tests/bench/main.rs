//! Measures envoy-guard beside its rivals, in one run on one machine, and prints ratios. `make bench` runs it.
//!
//! Whole process: CPU time of the server per Check, read from /proc, under the same load. Engine: CPU time of this
//! thread per request, the fastest of several rounds. Rivals get the same values.

mod cpu;
mod engine;
mod frame;
mod hostile;
mod load;
mod modsecurity;
mod places;
mod proc;
mod shared;
mod sinks;
mod stock;
mod table;
mod through;

use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |index: usize| arguments.get(index).map(String::as_str);
    match word(0) {
        Some("stock") => stock::serve(word(1).ok_or("stock PORT")?.parse()?),
        Some("all") => {
            let guard = PathBuf::from(word(1).ok_or("all GUARD PYTHON CORPUS")?);
            let python = PathBuf::from(word(2).ok_or("all GUARD PYTHON CORPUS")?);
            let corpus = word(3).map(PathBuf::from).filter(|path| path.exists());
            let mut report = table::Report::default();
            load::run(&guard, &mut report)?;
            shared::run(&guard, &mut report)?;
            sinks::run(&guard, &mut report)?;
            proc::run(&guard, &mut report)?;
            through::run(&guard, &mut report)?;
            places::run(&mut report)?;
            engine::run(Some(&python), corpus.as_deref(), &mut report)?;
            report.finish()
        }
        Some("places") => {
            let mut report = table::Report::default();
            places::run(&mut report)?;
            report.finish()
        }
        Some("shared") => {
            let mut report = table::Report::default();
            shared::run(&PathBuf::from(word(1).ok_or("shared GUARD")?), &mut report)?;
            report.finish()
        }
        Some("sinks") => {
            let mut report = table::Report::default();
            sinks::run(&PathBuf::from(word(1).ok_or("sinks GUARD")?), &mut report)?;
            report.finish()
        }
        Some("proc") => {
            let guard = PathBuf::from(word(1).ok_or("proc GUARD")?);
            let mut report = table::Report::default();
            proc::run(&guard, &mut report)?;
            through::run(&guard, &mut report)?;
            report.finish()
        }
        Some("engine") => {
            let python = PathBuf::from(word(1).unwrap_or("python3"));
            let corpus = word(2).map(PathBuf::from).filter(|path| path.exists());
            let mut report = table::Report::default();
            engine::run(Some(&python), corpus.as_deref(), &mut report)?;
            report.finish()
        }
        Some("loop") => engine::repeat(word(1).ok_or("loop SET CALLS")?, word(2).ok_or("loop SET CALLS")?.parse()?),
        Some("hostile") => engine::hostile(word(1).map_or(Ok(1), str::parse)?),
        Some("modsecurity") => {
            let corpus = word(1).map(PathBuf::from).filter(|path| path.exists());
            let mut report = table::Report::default();
            engine::beside_modsecurity(corpus.as_deref(), &mut report)?;
            report.finish()
        }
        Some("own") => {
            let corpus = word(1).map(PathBuf::from).filter(|path| path.exists());
            let mut report = table::Report::default();
            engine::run(None, corpus.as_deref(), &mut report)?;
            report.finish()
        }
        _ => Err(
            "usage: envoy-guard-bench all GUARD PYTHON [CORPUS] | shared GUARD | sinks GUARD | proc GUARD | places | engine [PYTHON [CORPUS]]\n       own [CORPUS] | hostile [PART] | modsecurity [CORPUS] | loop SET CALLS | stock PORT"
                .into(),
        ),
    }
}
