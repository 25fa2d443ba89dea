//! State in this process: bounded, least recently used goes first.
