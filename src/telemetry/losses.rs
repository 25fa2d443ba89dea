//! One line when a sink begins to lose what it is told, and one when that has ended: never one for each item. Whoever tells
//! only counts; here the counts are looked at now and then.

use std::time::Duration;

use crate::telemetry::buffer::{SinkName, Tallies};

/// How often the counts are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Looks without a loss until it has ended: a sink that stands still takes a batch now and then, and loses more at once.
const QUIET_LOOKS: u32 = 6;

/// What is known of one sink.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// Lost so far.
    lost: u64,
    /// Lost before it began; `None` while all is well.
    since: Option<u64>,
    /// Looks without a loss.
    quiet: u32,
}

/// What there is to say of a sink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    /// It loses what it is told.
    Begins,
    /// It lost so many, and has not for a while.
    Ends(u64),
}

impl Watched {
    fn look(&mut self, lost: u64) -> Option<Turn> {
        let before = std::mem::replace(&mut self.lost, lost);
        if before < lost {
            self.quiet = 0;
            let is_new = self.since.is_none();
            self.since.get_or_insert(before);
            return is_new.then_some(Turn::Begins);
        }
        self.quiet = self.quiet.saturating_add(1);
        let since = self.since.filter(|_| QUIET_LOOKS <= self.quiet)?;
        self.since = None;
        Some(Turn::Ends(lost - since))
    }
}

/// Watches the counts of all sinks. Never returns.
pub(super) async fn watch(tallies: Tallies) {
    let mut sinks: Vec<(SinkName, Watched)> = SinkName::ALL.iter().map(|sink| (*sink, Watched::default())).collect();
    loop {
        tokio::time::sleep(LOOK).await;
        for (sink, watched) in &mut sinks {
            let [_, lost, _, waiting] = tallies.of(*sink).read();
            match watched.look(lost) {
                Some(Turn::Begins) => {
                    tracing::warn!(sink = sink.name(), waiting, "a telemetry sink loses what it is told");
                }
                Some(Turn::Ends(lost)) => {
                    tracing::warn!(sink = sink.name(), lost, "a telemetry sink loses nothing any more");
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_when_they_begin_and_when_they_have_ended() {
        let mut watched = Watched::default();
        let mut looks = |counts: &[u64]| counts.iter().filter_map(|lost| watched.look(*lost)).collect::<Vec<_>>();
        assert_eq!(looks(&[0, 0, 0]), []);
        assert_eq!(looks(&[5, 9, 9, 9, 9, 9, 12]), [Turn::Begins], "a pause is not the end");
        assert_eq!(looks(&[12, 12, 12, 12, 12]), []);
        assert_eq!(looks(&[12]), [Turn::Ends(12)]);
        assert_eq!(looks(&[12, 12, 12, 12, 12, 12, 12]), [], "once");
        assert_eq!(looks(&[13, 13, 13, 13, 13, 13, 13]), [Turn::Begins, Turn::Ends(1)], "and anew");
    }
}
