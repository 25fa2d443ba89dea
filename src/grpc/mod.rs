//! The wire: bytes of Envoy become a borrowed request, a decision becomes the bytes of an answer. With `server` the
//! only room that names a gRPC or protocol-buffer type. Envoy's quirks live in `read` and `write`, one per comment.

pub mod authz;
pub mod desk;
pub mod frame;
pub mod probe;
pub mod proc;
pub mod read;
pub mod repeat;
mod web;
pub mod wire;
pub mod write;

/// The messages of `proto/`, as prost sees them. The Check path does not use them: it reads and writes bytes.
#[expect(missing_docs, reason = "generated: oneofs and services carry no comment")]
#[expect(unused_qualifications, reason = "generated")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/envoy_api.rs"));
}

/// Descriptors of `proto/`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
