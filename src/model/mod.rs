//! The words of the product. A leaf: no I/O, no clock, no protocol, no log.
//!
//! Glossary: a *request* comes from a *client* and matches at most one *route*; a *policy* is an ordered list of
//! *checks*; a check that objects produces a *denial*; the *decision* holds the *verdict* and the *facts* that explain
//! it. A *threat* is one detection finding of a *category*, seen in one *view* of one value. A *hit* is one request
//! counted in the *window* of a *bucket*; a *ban* refuses a client until it expires. A *snapshot* is one immutable
//! version of everything that can change at run time.

pub mod addr;
pub mod category;
pub mod check;
pub mod decision;
pub mod event;
pub mod headers;
pub mod lists;
pub mod message;
pub mod nets;
pub mod place;
pub(crate) mod sorted;
pub mod stage;
pub mod time;
