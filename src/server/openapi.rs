//! The description of the API, OpenAPI 3.1.

use serde_json::{Map, Value, json};

use crate::server::bounds::{BAN_SECONDS, IMPORT_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::server::report::TEXT_BYTES_MAX;
use crate::state::{PATTERN_BYTES_MAX, REASON_BYTES_MAX};
use crate::telemetry::levels::{FILTER_BYTES_MAX, SECONDS_DEFAULT, SECONDS_MAX};

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for (path, item) in bans().into_iter().chain(decisions()).chain(others()) {
        paths.insert(path.to_owned(), item);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "envoy-guard admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "For operators: bans, patterns, limits, configuration. Every change is one line in the log.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
        "security": [{ "token": [] }, {}],
    })
}

fn schemas() -> Value {
    json!({
        "Problem": {
            "type": "object",
            "description": "RFC 9457",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
            },
        },
        "Ban": {
            "type": "object",
            "required": ["target", "until", "seconds_left"],
            "properties": {
                "target": { "type": "string", "description": "an address or a network" },
                "until": { "type": "number", "description": "seconds since the epoch" },
                "seconds_left": { "type": "integer", "minimum": 0 },
                "reason": { "type": ["string", "null"] },
            },
        },
        "Sentence": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "seconds": { "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": BAN_SECONDS },
                "reason": { "type": "string", "description": format!("of which {REASON_BYTES_MAX} bytes are kept") },
            },
        },
        "Decision": {
            "type": "object",
            "required": ["id", "at", "verdict", "check", "client", "route", "request_id", "x_request_id"],
            "properties": {
                "id": { "type": "string" },
                "at": { "type": "number", "description": "seconds since the epoch" },
                "verdict": { "enum": ["allow", "deny", "fail", "report"] },
                "check": { "type": ["string", "null"] },
                "client": { "type": "string" },
                "route": { "type": ["string", "null"] },
                "request_id": { "type": "string", "description": "as in metadata and log" },
                "x_request_id": { "type": ["string", "null"] },
                "status": { "type": ["integer", "null"] },
                "reason": { "type": ["string", "null"] },
                "method": { "type": "string" },
                "host": { "type": "string" },
                "target": { "type": "string", "description": "path and query, secrets masked" },
                "facts": { "type": "array" },
                "detection": { "type": "object" },
                "log_only": { "type": "object" },
                "change": { "type": "object", "description": "what would have let the request pass" },
            },
        },
        "Pattern": {
            "type": "object",
            "required": ["row", "category", "pattern"],
            "properties": {
                "row": { "type": "string" },
                "category": { "type": "string" },
                "about": { "type": "string" },
                "pattern": { "type": "string" },
            },
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// One operation: what it is called, what it does, and what it answers with 200. All answer problems otherwise.
fn operation(id: &str, summary: &str, answer: Value) -> Value {
    let problem = json!({ "description": "a problem", "content": {
        "application/problem+json": { "schema": reference("Problem") } } });
    let mut responses = json!({ "200": { "description": "done", "content": {
        "application/json": { "schema": answer } } } });
    for status in ["400", "401", "403", "404", "405", "413", "422", "503"] {
        if let Some(responses) = responses.as_object_mut() {
            responses.insert(status.to_owned(), problem.clone());
        }
    }
    json!({ "operationId": id, "summary": summary, "responses": responses })
}

fn with(mut operation: Value, key: &str, value: Value) -> Value {
    if let Some(object) = operation.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
    operation
}

fn body(schema: Value) -> Value {
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn query(name: &str, schema: Value, about: &str) -> Value {
    json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": about })
}

fn segment(name: &str, about: &str, example: &str) -> Value {
    json!([{ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 },
             "description": about, "example": example }])
}

fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    let required = json!(required);
    json!({ "type": "object", "required": required, "properties": properties })
}

fn size() -> Value {
    let schema = json!({ "type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT });
    query("limit", schema, "entries of a page")
}

fn bans() -> Vec<(&'static str, Value)> {
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    let page = object(json!({
        "bans": { "type": "array", "items": reference("Ban") },
        "next": { "type": ["string", "null"], "description": "the cursor of the next page" },
    }));
    let list = with(
        operation("listBans", "bans in force, a page at a time", page),
        "parameters",
        json!([
            query("cursor", text(), "where an earlier page ended"),
            size(),
            query("reason", text(), "only bans whose reason holds this text"),
        ]),
    );
    let entry = json!({
        "type": "object",
        "required": ["target"],
        "properties": {
            "target": { "type": "string" },
            "seconds": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            "seconds_left": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
            "reason": { "type": ["string", "null"] },
        },
    });
    let given = json!({ "type": "object", "additionalProperties": false, "required": ["bans"], "properties": {
        "bans": { "type": "array", "maxItems": IMPORT_MAX, "items": entry } } });
    let import = operation("importBans", "ban many; all or none", object(json!({ "imported": { "type": "integer" } })));
    let reset = operation("resetBans", "lift all bans", object(json!({ "reset": flag() })));
    let target = || segment("target", "an address, or a network with its slash as %2F", "198.51.100.0/24");
    let put = operation(
        "putBan",
        "ban, or change a ban",
        object(json!({ "target": text(), "seconds": { "type": "integer" }, "reason": text() })),
    );
    let delete = operation("deleteBan", "lift a ban", object(json!({ "target": text(), "removed": flag() })));
    let why = operation(
        "whyAddress",
        "which ban and which lists cover an address",
        object(json!({
            "address": text(),
            "banned": flag(),
            "ban": { "anyOf": [reference("Ban"), { "type": "null" }] },
            "lists": { "type": "array", "items": object(json!({ "list": text(), "entry": text() })) },
            "suspicious_requests": { "type": "integer" },
        })),
    );
    vec![
        ("/api/v1/bans", json!({ "get": list, "post": with(import, "requestBody", body(given)), "delete": reset })),
        (
            "/api/v1/bans/{target}",
            json!({
                "parameters": target(),
                "get": operation("getBan", "one ban", reference("Ban")),
                "put": with(put, "requestBody", body(reference("Sentence"))),
                "delete": delete,
            }),
        ),
        (
            "/api/v1/addresses/{address}",
            json!({ "parameters": segment("address", "an address", "198.51.100.7"), "get": why }),
        ),
    ]
}

fn decisions() -> Vec<(&'static str, Value)> {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX });
    let maybe = || json!({ "type": ["string", "null"] });
    let list = with(
        operation(
            "listDecisions",
            "recent decisions without their explanations, the newest first; after a number, the oldest first",
            object(json!({
                "decisions": { "type": "array", "items": reference("Decision") },
                "next": maybe(),
                "oldest": maybe(),
                "newest": text(),
            })),
        ),
        "parameters",
        json!([
            query("after", number(), "only newer ones than this, the oldest first"),
            query("before", number(), "only older ones than this"),
            size(),
            query("verdict", json!({ "enum": ["allow", "deny", "fail", "report"] }), "only these"),
            query("check", text(), "only those by this check"),
            query("client", text(), "only those about this address or network"),
            query("route", text(), "only those on this route"),
        ]),
    );
    let id = segment("id", "the decision's number, Envoy's id of the request, or its x-request-id", "1");
    let one = operation("getDecision", "one decision, why, and what would change it", reference("Decision"));
    vec![
        ("/api/v1/decisions", json!({ "get": list })),
        ("/api/v1/decisions/{id}", json!({ "parameters": id, "get": one })),
    ]
}

fn others() -> Vec<(&'static str, Value)> {
    let any = || json!({ "type": "object" });
    let flag = || json!({ "type": "boolean" });
    let pattern = || json!({ "type": "string", "minLength": 1, "maxLength": PATTERN_BYTES_MAX });
    let given = |more: Value| {
        let mut properties = json!({ "pattern": pattern() });
        if let (Some(own), Some(more)) = (properties.as_object_mut(), more.as_object()) {
            own.extend(more.clone());
        }
        body(json!({ "type": "object", "additionalProperties": false, "required": ["pattern"],
            "properties": properties }))
    };
    let list = with(
        operation(
            "listPatterns",
            "patterns in use, a page at a time",
            object(json!({
                "patterns": { "type": "array", "items": reference("Pattern") },
                "next": { "type": ["integer", "null"] },
                "total": { "type": "integer" },
            })),
        ),
        "parameters",
        json!([
            query("set", json!({ "enum": ["default", "custom", "all"], "default": "all" }), "which of them"),
            query("cursor", json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }), "where a page ended"),
            size(),
        ]),
    );
    let add = operation(
        "addPattern",
        "share a pattern with all replicas",
        object(json!({ "pattern": { "type": "string" }, "added": flag() })),
    );
    let remove = with(
        operation("removePattern", "take a shared pattern away, or all", object(json!({ "removed": flag() }))),
        "parameters",
        json!([query("pattern", pattern(), "this one"), query("all", flag(), "all of them")]),
    );
    let test = operation(
        "testPattern",
        "try a pattern",
        object(json!({ "usable": flag(), "matches": { "type": ["boolean", "null"] } })),
    );
    let reload = with(
        operation("reload", "read everything again", any()),
        "parameters",
        json!([query("dry_run", flag(), "only tell what would change")]),
    );
    let reset = operation("resetLimits", "forget all rate limit counts", object(json!({ "reset": flag() })));
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let history = object(json!({
        "limit": { "type": "string" },
        "client": maybe("string"),
        "count": { "type": "integer" },
        "allowed": maybe("integer"),
        "window": maybe("integer"),
        "key": maybe("string"),
    }));
    let busiest = with(
        operation(
            "topLimits",
            "the busiest rate limit histories",
            object(json!({
                "limits": { "type": "array", "items": history },
                "complete": { "type": "boolean", "description": "all histories were looked at" },
                "source": { "enum": ["memory", "redis"] },
            })),
        ),
        "parameters",
        json!([size()]),
    );
    let levels = |id: &str, about: &str| {
        let text = || json!({ "type": "string" });
        let answer = json!({ "filter": text(), "configured": text(), "until": { "type": ["number", "null"] } });
        operation(id, about, object(answer))
    };
    let filter = json!({ "type": "object", "additionalProperties": false, "required": ["filter"], "properties": {
        "filter": { "type": "string", "minLength": 1, "maxLength": FILTER_BYTES_MAX },
        "seconds": { "type": ["integer", "null"], "minimum": 1, "maximum": SECONDS_MAX, "default": SECONDS_DEFAULT } } });
    let text = || json!({ "type": "string", "maxLength": TEXT_BYTES_MAX });
    let report = json!({ "type": "object", "required": ["event_type", "client"], "properties": {
        "event_type": { "enum": ["access_denied", "authentication_failed", "country_blocked"] },
        "client": { "type": "string", "description": "the client's address" },
        "reason": text(), "method": text(), "path": text(),
        "decorator_type": text(), "violation_type": text(), "auth_type": text(),
        "country": { "type": "string", "minLength": 2, "maxLength": 2 },
        "list": { "enum": ["whitelist", "blacklist"] } } });
    let reported = operation(
        "reportEvent",
        "tell what the application refused by itself as a security event",
        object(json!({ "event_type": { "type": "string" }, "idempotency_key": { "type": "string" } })),
    );
    vec![
        ("/api/v1/events", json!({ "post": with(reported, "requestBody", body(report)) })),
        (
            "/api/v1/patterns",
            json!({ "get": list, "post": with(add, "requestBody", given(json!({}))), "delete": remove }),
        ),
        (
            "/api/v1/patterns/test",
            json!({ "post": with(test, "requestBody", given(json!({ "text": { "type": "string" } }))) }),
        ),
        ("/api/v1/limits", json!({ "get": busiest, "delete": reset })),
        (
            "/api/v1/log",
            json!({ "get": levels("getLog", "the filter of log lines"),
                "put": with(levels("setLog", "another filter for a while"), "requestBody", body(filter)),
                "delete": operation("resetLog", "the configuration's filter again", object(json!({ "removed": flag() }))) }),
        ),
        ("/api/v1/reload", json!({ "post": reload })),
        ("/api/v1/status", json!({ "get": operation("status", "how each part is doing", any()) })),
        (
            "/api/v1/diagnosis",
            json!({ "get": operation("diagnosis", "machine, clock and Redis, as the service sees them", any()) }),
        ),
        ("/api/v1/config", json!({ "get": operation("config", "the configuration without secrets", any()) })),
        ("/api/v1/openapi.json", json!({ "get": operation("openapi", "this document", any()) })),
    ]
}
