//! The reader of Envoy's questions, beside the generated one.
#![no_main]

use envoy_guard::grpc::pb::envoy::service::auth::v3::CheckRequest;
use envoy_guard::grpc::read;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|message: &[u8]| {
    if let Ok(request) = read::read(message) {
        // What was read can be looked at.
        let _ = (request.target.path.len(), request.headers.iter().count(), request.body.bytes().len());
        // Both readers understand it alike, where the generated one, which looks at every field, understands it.
        let Ok(question) = CheckRequest::decode(message) else { return };
        let http = question.attributes.and_then(|attributes| attributes.request).and_then(|request| request.http);
        let http = http.expect("what was read is about HTTP");
        assert_eq!((request.method, request.target.raw), (http.method.as_str(), http.path.as_str()));
        assert_eq!((request.scheme, request.host), (http.scheme.as_str(), http.host.as_str()));
        let body = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body[..] };
        assert_eq!(request.body.bytes(), body);
    }
});
