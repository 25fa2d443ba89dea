//! Assembly: the one room that knows every room.

pub mod curl;
pub mod input;
