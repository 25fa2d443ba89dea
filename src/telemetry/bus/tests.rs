use super::*;

#[test]
fn an_event_that_every_request_would_repeat_is_told_once_in_a_while() {
    let bus = Bus::default();
    let told = [("/a", 0.0), ("/a", 1.0), ("/b", 1.0), ("/a", 299.0), ("/a", 300.0), ("/a", 301.0)]
        .map(|(path, now)| bus.is_new(EventType::PathExcluded, path, Timestamp(now)));
    assert_eq!(told, [true, false, true, false, true, false]);
    assert!(bus.is_new(EventType::SecurityHeadersApplied, "/a", Timestamp(301.0)), "each type by itself");
    (0..3 * PATHS_MAX).for_each(|number| {
        bus.is_new(EventType::PathExcluded, &number.to_string(), Timestamp(302.0));
    });
    assert!(bus.seen.lock().unwrap().0.len() <= PATHS_MAX);
}

#[test]
fn failures_reach_on_error_without_secrets() {
    let bus = Bus::default();
    bus.failed("geoip", "nobody listens");
    let errors = Buffer::new(2, 1, crate::telemetry::buffer::Full::DropOldest, Arc::default());
    drop(bus.replace(Arc::new(Outlets { errors: Some(errors.clone()), ..Outlets::default() })));
    bus.failed("geoip", "https://h/?x=1 at redis://u:secret@h");
    let payload = errors.take(9).pop().unwrap().json();
    assert_eq!(payload["stage"], "geoip");
    assert_eq!(payload["error"], "https://h/?x=1 at redis://u:[REDACTED]@h");
}
