//! The narrowest exclusion with which a request would have passed, ready to paste.

use serde_json::{Map, Value};

use crate::config::exclusions::Exclusion;
use crate::detect::{Detector, Finding, Scope, Unmetered};
use crate::request::Request;

/// Values of one request that are excluded at most before it is given up.
const ROUNDS_MAX: usize = 32;

/// Exclusions of single rows in single places that together let `request` pass detection; none when it passes anyway
/// or nothing that can be excluded is what is found. Each was tried: without any of them the request is refused.
pub(super) fn narrowest(detector: &Detector, request: &Request<'_>, scope: &Scope) -> Vec<Exclusion> {
    let finding = |exclusions: &[Exclusion]| {
        let mut scope = scope.clone();
        scope.exclusions.extend_from_slice(exclusions);
        detector.inspect(request, &scope, &Unmetered).finding
    };
    let mut exclusions = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let Some(found) = finding(&exclusions) else {
            // What is found beside the decisive row need not be excluded.
            let mut index = exclusions.len();
            while let Some(next) = index.checked_sub(1) {
                index = next;
                let without = exclusions.iter().enumerate().filter(|(other, _)| *other != index);
                let without: Vec<Exclusion> = without.map(|(_, exclusion)| exclusion.clone()).collect();
                if finding(&without).is_none() {
                    exclusions = without;
                }
            }
            return exclusions;
        };
        let known = exclusions.len();
        for exclusion in of(&found, request) {
            if !exclusions.contains(&exclusion) {
                exclusions.push(exclusion);
            }
        }
        if exclusions.len() == known {
            return Vec::new();
        }
    }
    Vec::new()
}

/// One exclusion for each row that matched: this row, on this path, in this place.
fn of(finding: &Finding, request: &Request<'_>) -> impl Iterator<Item = Exclusion> {
    let given = |text: &str| (!text.trim().is_empty()).then(|| text.to_owned());
    let path = request.target.path;
    let mut place = Exclusion {
        path: given(path).filter(|path| path.starts_with('/') && !path.contains(['?', '#'])),
        ..Exclusion::default()
    };
    let spot = finding.spot();
    match spot.key {
        Some("param") => place.param = Some(spot.name),
        Some("header") => place.header = Some(spot.name),
        Some("json_path") => place.json_path = Some(spot.name),
        Some("body_field") => place.body_field = Some(spot.name),
        _ => {}
    }
    finding.threats.iter().map(move |threat| Exclusion { row: Some(threat.row.to_string()), ..place.clone() })
}

/// An exclusion without what it leaves open.
pub(super) fn json(exclusion: &Exclusion) -> Map<String, Value> {
    let value = serde_json::to_value(exclusion).unwrap_or_default();
    let Value::Object(fields) = value else { return Map::new() };
    fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

/// The exclusions as they stand in a configuration file. A text in JSON's quotes is a text in YAML.
pub(super) fn yaml(exclusions: &[Map<String, Value>]) -> String {
    let mut text = String::from("detection:\n  exclusions:\n");
    for exclusion in exclusions {
        for (index, (name, value)) in exclusion.iter().enumerate() {
            let mark = if index == 0 { '-' } else { ' ' };
            text.push_str(&format!("    {mark} {name}: {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::build::build;
    use crate::app::input::Input;
    use crate::config::Sources;
    use crate::live::Snapshot;

    fn snapshot(text: &str) -> Snapshot {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, text).unwrap();
        build(&Sources { file: Some(file), ..Sources::default() }).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn is_blocked(snapshot: &Snapshot, request: &str) -> bool {
        let input = Input::from_json(request).unwrap();
        let (policy, request) = (&snapshot.policy, input.view());
        policy.detector.inspect(&request, policy.scope(&request), &Unmetered).finding.is_some()
    }

    #[test]
    fn what_is_pasted_lets_exactly_this_request_pass() {
        const FORM: &str = r#""headers":{"content-type":"application/x-www-form-urlencoded"}"#;
        const JSON: &str = r#""headers":{"content-type":"application/json"}"#;
        let get = |path: &str| format!(r#"{{"id":"1","method":"GET","path":"{path}","headers":{{}}}}"#);
        let post = |headers: &str, body: &str| {
            format!(r#"{{"id":"1","method":"POST","path":"/notes","body":{},{headers}}}"#, Value::from(body))
        };
        let agent = |value: &str| {
            format!(r#"{{"id":"1","method":"GET","path":"/notes","headers":{{"x-note":{}}}}}"#, Value::from(value))
        };
        const SQL: &str = "1' UNION SELECT password FROM users--";
        const XSS: &str = "<script>alert(1)</script>";
        let default = snapshot("");
        for (name, request, expected, neighbours) in [
            (
                "a query parameter",
                get("/items?id=1%27%20UNION%20SELECT%20password%20FROM%20users--"),
                ("param", "id"),
                [
                    get("/items?name=1%27%20UNION%20SELECT%20password%20FROM%20users--"),
                    get("/other?id=1%27%20UNION%20SELECT%20password%20FROM%20users--"),
                    get("/items?id=%3Cscript%3Ealert(1)%3C/script%3E"),
                ],
            ),
            (
                "a JSON leaf",
                post(JSON, &format!(r#"{{"items":[{{"note":"{SQL}"}}]}}"#)),
                ("json_path", "items[].note"),
                [
                    post(JSON, &format!(r#"{{"items":[{{"title":"{SQL}"}}]}}"#)),
                    post(JSON, &format!(r#"{{"note":"{SQL}"}}"#)),
                    post(JSON, &format!(r#"{{"items":[{{"note":"{XSS}"}}]}}"#)),
                ],
            ),
            (
                "a form field",
                post(FORM, "note=%3Cscript%3Ealert(1)%3C/script%3E"),
                ("body_field", "note"),
                [
                    post(FORM, "title=%3Cscript%3Ealert(1)%3C/script%3E"),
                    post(FORM, "note=1%27+UNION+SELECT+password+FROM+users--"),
                    agent(XSS),
                ],
            ),
            (
                "a header",
                agent(XSS),
                ("header", "x-note"),
                [
                    agent(SQL),
                    get("/notes?x-note=%3Cscript%3Ealert(1)%3C/script%3E"),
                    post(FORM, "x-note=%3Cscript%3Ealert(1)%3C/script%3E"),
                ],
            ),
        ] {
            let input = Input::from_json(&request).unwrap();
            let (policy, view) = (&default.policy, input.view());
            assert!(is_blocked(&default, &request), "{name}");
            let found = narrowest(&policy.detector, &view, policy.scope(&view));
            let shown: Vec<_> = found.iter().map(json).collect();
            assert!(!shown.is_empty() && shown.iter().all(|one| one[expected.0] == expected.1), "{name}: {shown:?}");
            let text = yaml(&shown);
            let tuned = snapshot(&text);
            assert!(!is_blocked(&tuned, &request), "{name}\n{text}");
            for neighbour in neighbours {
                assert!(is_blocked(&tuned, &neighbour), "{name}: {neighbour}\n{text}");
            }
        }
        let clean = Input::from_json(&get("/items?id=1")).unwrap();
        let (policy, view) = (&default.policy, clean.view());
        assert_eq!(narrowest(&policy.detector, &view, policy.scope(&view)), []);
    }
}
