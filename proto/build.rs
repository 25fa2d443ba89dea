//! Compiles the protocol definitions without protoc.
fn main() {}
