//! Facts become log lines and metrics; later events. Never slows a request down.
