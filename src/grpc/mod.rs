//! The only room that names a gRPC or protocol-buffer type.
