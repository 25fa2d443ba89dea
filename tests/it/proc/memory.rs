//! Large bodies through a real Envoy: the guard's memory stays as it was.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::proc::modes::{TRAILERS, Way, with_cluster, with_ways};
use crate::stack::{Stack, policy};

const BYTES: usize = 30 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
const SMALL: usize = 1024 * 1024;
/// Exchanges of both sizes before those that count: the first inspections need room of their own, and the allocator a page
/// for each size it meets.
const WARM_UPS: usize = 4;
/// Exchanges of both sizes that are compared.
const ROUNDS: usize = 5;
/// What the guard may need more for a large body than for a small one, in KiB.
const GROWTH_KIB_MAX: u64 = 8 * 1024;

#[test]
fn large_bodies_pass_in_flat_memory() {
    let bulk = bulk();
    // One worker: all exchanges meet the same memory.
    let policy = policy("rate_limit: 100000", "", 0, 0).replace("listeners:\n", "listeners:\n  workers: 1\n");
    let stack = Stack::of("ext_proc.yaml", &policy, |text| {
        let text = with_ways(&text, &[("bulk", "cluster: bulk")]);
        with_cluster(&text, "bulk", bulk, false).replace("allow_mode_override: true", "allow_mode_override: false")
    });
    for mode in ["STREAMED", "FULL_DUPLEX_STREAMED"] {
        let path = Way { request: mode, response: mode, trailers: TRAILERS[0] }.path("bulk");
        let pairs = |count: usize| -> Vec<(u64, u64)> {
            // Also the small one is above the cap of inspection.
            (0..count).map(|_| (peak(&stack, &path, SMALL), peak(&stack, &path, BYTES))).collect()
        };
        let first = pairs(WARM_UPS);
        let peaks = pairs(ROUNDS);
        eprintln!("{mode}: warm up {first:?} KiB");
        eprintln!("{mode}: peaks of 1 MiB and of 30 MiB each way {peaks:?} KiB");
        // A body that is gathered shows in every exchange; a page that the allocator took for a size it met, in some.
        let small = median(peaks.iter().map(|(small, _)| *small).collect());
        let large = median(peaks.iter().map(|(_, large)| *large).collect());
        assert!(large <= small + GROWTH_KIB_MAX, "{mode}: {small} KiB for 1 MiB, {large} KiB for 30 MiB");
    }
}

fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}

/// The guard's peak memory while such a body goes up and down, in KiB.
#[track_caller]
fn peak(stack: &Stack, path: &str, bytes: usize) -> u64 {
    // From here on VmHWM is the peak since now.
    std::fs::write(format!("/proc/{}/clear_refs", stack.guard.id()), "5").unwrap();
    assert_eq!(exchange(stack.port, path, bytes), bytes, "{path}");
    memory(stack.guard.id(), "VmHWM:")
}

/// A line of /proc/PID/status, in KiB.
pub(super) fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An application that takes a body of any length and sends as many bytes back, and keeps none.
fn bulk() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(take_and_send(stream)));
        }
    });
    port
}

fn take_and_send(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? != 0 && line != "\r\n" {
        line.clear();
    }
    // Behind this filter bodies come in chunks.
    let mut total = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or(0);
        std::io::copy(&mut reader.by_ref().take(size as u64 + 2), &mut std::io::sink())?;
        total += size;
        if size == 0 {
            break;
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {total}\r\n\r\n")?;
    let piece = [b'y'; PIECE];
    while total != 0 {
        let sent = stream.write(&piece[..total.min(PIECE)])?;
        total -= sent;
    }
    Ok(())
}

/// Sends so many bytes, and counts those that come back.
fn exchange(port: u16, path: &str, bytes: usize) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 198.51.100.7\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .unwrap();
    let piece = [b'x'; PIECE];
    let mut left = bytes;
    while left != 0 {
        let size = left.min(PIECE);
        write!(stream, "{size:x}\r\n").and_then(|()| stream.write_all(&piece[..size])).unwrap();
        stream.write_all(b"\r\n").unwrap();
        left -= size;
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let (mut line, mut is_chunked) = (String::new(), false);
    while reader.read_line(&mut line).unwrap() != 0 && line != "\r\n" {
        assert!(!line.starts_with("HTTP/") || line.contains(" 200 "), "{path}: {line}");
        is_chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding:");
        line.clear();
    }
    if !is_chunked {
        return usize::try_from(std::io::copy(&mut reader, &mut std::io::sink()).unwrap()).unwrap();
    }
    let mut total = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        std::io::copy(&mut reader.by_ref().take(size as u64 + 2), &mut std::io::sink()).unwrap();
        total += size;
        if size == 0 {
            return total;
        }
    }
}
