//! `docs/configuration.md` in step with the schema.
