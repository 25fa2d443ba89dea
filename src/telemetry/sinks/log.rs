//! Events as log lines: the whole envelope, as JSON, under the target `event`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::values::LogLevel;
use crate::telemetry::buffer::Buffer;
use crate::telemetry::events::Event;
use crate::telemetry::events::json::Style;
use crate::telemetry::levels::leveled;

/// Events written before others have a turn.
const TURN: usize = 256;

/// Writes until told to stop, and then what is left.
pub(super) async fn run(level: LogLevel, queue: Buffer<Arc<Event>>, mut stop: watch::Receiver<bool>) {
    loop {
        let is_last = *stop.borrow();
        loop {
            let events = queue.take(TURN);
            if events.is_empty() {
                break;
            }
            events.iter().for_each(|event| write(level, event));
            queue.tally().delivered(events.len());
            tokio::task::yield_now().await;
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = queue.filled() => {}
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

fn write(level: LogLevel, event: &Event) {
    let (name, envelope) = (event.kind.name(), event.envelope(Style::Joined));
    macro_rules! line {
        ($level:expr, $severity:expr) => {
            tracing::event!(target: "event", $level, severity = $severity, event = name, %envelope, "{}", event.reason)
        };
    }
    leveled!(level, line);
}
