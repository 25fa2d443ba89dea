//! CPU time of the calling thread: what the machine's other work does not disturb.

use rustix::time::{ClockId, clock_gettime};

/// CPU microseconds this thread has used.
pub fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// CPU microseconds of one call of `work`: the best of `rounds` rounds of `calls` calls.
pub fn of(rounds: usize, calls: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = now();
        for _ in 0..calls {
            work();
        }
        best = best.min((now() - start) / calls as f64);
    }
    best
}
