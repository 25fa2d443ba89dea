//! The reader of Envoy's questions, beside the generated one.
#![no_main]

use envoy_guard::grpc::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Ok(request) = read::read(message) {
        // What was read can be looked at.
        let _ = (request.target.path.len(), request.headers.iter().count(), request.body.bytes().len());
    }
});
