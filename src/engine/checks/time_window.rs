//! Check 10: hours of access.

use jiff::tz::TimeZone;

use crate::config::routes::TimeRestriction;
use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::event::EventType;
use crate::model::time::Timestamp;

const CHECK: Check = Check::TimeWindow;
const REASON: &str = "Access outside allowed time window";

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Option<Hours>>,
}

/// Minutes of the day, both ends included.
#[derive(Debug)]
struct Hours {
    start: u16,
    end: u16,
    zone: TimeZone,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|compiling, routed| {
            let routed = routed?;
            let window = routed.route.time_restrictions.as_ref()?;
            match hours(window) {
                Ok(hours) => Some(hours),
                Err((field, message)) => {
                    compiling.error(routed.key(&format!("time_restrictions.{field}")), message);
                    None
                }
            }
        });
        by_route.any(Option::is_some).then_some(Self { by_route })
    }
}

fn hours(window: &TimeRestriction) -> Result<Hours, (&'static str, String)> {
    let bad = |text: &str| format!("`{text}` is not a time of day such as 09:30");
    let start = minutes(&window.start).ok_or_else(|| ("start", bad(&window.start)))?;
    let end = minutes(&window.end).ok_or_else(|| ("end", bad(&window.end)))?;
    let zone = TimeZone::get(&window.timezone)
        .map_err(|_| ("timezone", format!("`{}` is not an IANA time zone", window.timezone)))?;
    Ok(Hours { start, end, zone })
}

fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, max: u16| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|value| digits && *value <= max)
    };
    Some(number(hour, 23)? * 60 + number(minute, 59).filter(|_| minute.len() == 2)?)
}

impl Hours {
    fn contains(&self, now: Timestamp) -> bool {
        // A clock outside the years that a calendar covers cannot be judged; access is not lost over it.
        let Ok(moment) = jiff::Timestamp::from_second(now.0 as i64) else { return true };
        let local = self.zone.to_datetime(moment);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        if self.start <= self.end {
            self.start <= minute && minute <= self.end
        } else {
            self.start <= minute || minute <= self.end
        }
    }
}

pub(crate) fn evaluate<'p>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let Some(hours) = settings.by_route.of(cx.route) else { return Ok(None) };
    if hours.contains(cx.now) {
        return Ok(None);
    }
    cx.report(CHECK, EventType::DecoratorViolation, REASON.to_owned(), violation("advanced", "time_restriction"));
    cx.suspect(CHECK, REASON.to_owned(), String::new());
    Ok(Some(Objection::new(403, "Access not allowed at this time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: &str, end: &str, timezone: &str) -> TimeRestriction {
        TimeRestriction { start: start.to_owned(), end: end.to_owned(), timezone: timezone.to_owned() }
    }

    #[test]
    fn both_ends_are_inside_and_nights_wrap() {
        // 2026-11-21 00:00:00 UTC.
        const MIDNIGHT: f64 = 1_795_219_200.0;
        for (name, start, end, zone, minute, expected) in [
            ("before", "09:00", "17:00", "UTC", 8 * 60 + 59, false),
            ("first minute", "09:00", "17:00", "UTC", 9 * 60, true),
            ("last minute", "09:00", "17:00", "UTC", 17 * 60, true),
            ("after", "09:00", "17:00", "UTC", 17 * 60 + 1, false),
            ("a missing zero changes nothing", "9:00", "17:00", "UTC", 9 * 60, true),
            ("at night", "22:00", "06:00", "UTC", 23 * 60, true),
            ("in the morning", "22:00", "06:00", "UTC", 6 * 60, true),
            ("at noon", "22:00", "06:00", "UTC", 12 * 60, false),
            ("one minute long", "12:00", "12:00", "UTC", 12 * 60, true),
            ("Berlin is an hour ahead in November", "09:00", "17:00", "Europe/Berlin", 8 * 60, true),
            ("and closes an hour earlier", "09:00", "17:00", "Europe/Berlin", 16 * 60 + 1, false),
        ] {
            let hours = hours(&window(start, end, zone)).unwrap();
            assert_eq!(hours.contains(Timestamp(MIDNIGHT + f64::from(minute) * 60.0)), expected, "{name}");
        }
    }

    #[test]
    fn bad_windows_are_refused_by_field() {
        for (start, end, zone, field) in [
            ("24:00", "17:00", "UTC", "start"),
            ("9", "17:00", "UTC", "start"),
            ("", "17:00", "UTC", "start"),
            ("09:60", "17:00", "UTC", "start"),
            ("09:5", "17:00", "UTC", "start"),
            ("+9:00", "17:00", "UTC", "start"),
            ("09:00", "17.00", "UTC", "end"),
            ("09:00", "17:00", "Mars/Olympus", "timezone"),
        ] {
            assert_eq!(hours(&window(start, end, zone)).unwrap_err().0, field, "{start} {end} {zone}");
        }
    }
}
