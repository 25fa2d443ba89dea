//! Where each key of a configuration stands in its sources.

use std::collections::HashMap;

use crate::config::errors::{Notice, Place};

/// Places by key path.
pub(crate) type Places = HashMap<String, Place>;

/// The place of `key`, or of the nearest level above it that a source names.
pub(crate) fn locate<'p>(places: &'p Places, key: &str) -> Option<&'p Place> {
    let mut key = key;
    loop {
        if let Some(place) = places.get(key) {
            return Some(place);
        }
        let (above, _) = key.rsplit_once(['.', '['])?;
        key = above;
    }
}

/// A remark about `key`.
pub(crate) fn notice(places: &Places, key: &str, message: String) -> Notice {
    Notice { place: locate(places, key).cloned(), key: key.to_owned(), message }
}
