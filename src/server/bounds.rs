//! What one call of the admin API may ask for, and what it gets when it does not say.

/// Entries of a page, unless the call says otherwise.
pub(super) const PAGE_DEFAULT: usize = 100;
/// Entries of a page at most.
pub(super) const PAGE_MAX: usize = 1000;
/// Bans of one import at most.
pub(super) const IMPORT_MAX: usize = 1000;
/// Length of a ban that names none, in seconds.
pub(super) const BAN_SECONDS: u32 = 3600;
