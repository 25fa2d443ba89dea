//! Countries from a MaxMind database file, in the layouts of MaxMind and IPinfo. The only door to `maxminddb`.

use std::fmt;

use maxminddb::{PathElement, Reader};

use crate::model::addr::ClientAddr;
use crate::model::place::{Countries, CountryCode};

/// A database in memory.
pub struct Mmdb {
    reader: Reader<Vec<u8>>,
    layout: Layout,
}

/// Where a record keeps its country code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// `country.iso_code`, as MaxMind does.
    Nested,
    /// `country`, as IPinfo's free database does.
    Country,
    /// `country_code`, as IPinfo's lite database does.
    CountryCode,
}

impl Layout {
    const ALL: [Self; 3] = [Self::Nested, Self::Country, Self::CountryCode];

    const fn path(self) -> &'static [PathElement<'static>] {
        match self {
            Self::Nested => &[PathElement::Key("country"), PathElement::Key("iso_code")],
            Self::Country => &[PathElement::Key("country")],
            Self::CountryCode => &[PathElement::Key("country_code")],
        }
    }
}

/// Why a file is no country database.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GeoError {
    /// The file is not in the format.
    #[error("is not a MaxMind database: {0}")]
    Format(String),
    /// No record says a country in a way we know.
    #[error("holds no country codes")]
    NoCountries,
}

/// Records looked at to find out the layout.
const PROBED_RECORDS_MAX: usize = 1000;

impl Mmdb {
    /// Opens a database that was read into memory.
    ///
    /// # Errors
    /// When the bytes are no database, or none of its first records says a country.
    pub fn new(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let reader = Reader::from_source(bytes).map_err(|error| GeoError::Format(error.to_string()))?;
        let layout = layout(&reader)?;
        Ok(Self { reader, layout })
    }
}

fn layout(reader: &Reader<Vec<u8>>) -> Result<Layout, GeoError> {
    let networks = reader.networks(Default::default()).map_err(|error| GeoError::Format(error.to_string()))?;
    for found in networks.take(PROBED_RECORDS_MAX).flatten() {
        for layout in Layout::ALL {
            if let Ok(Some(text)) = found.decode_path::<&str>(layout.path())
                && CountryCode::new(text).is_some()
            {
                return Ok(layout);
            }
        }
    }
    Err(GeoError::NoCountries)
}

impl Countries for Mmdb {
    fn country(&self, addr: ClientAddr) -> Option<CountryCode> {
        let found = self.reader.lookup(addr.ip()).ok()?;
        CountryCode::new(found.decode_path::<&str>(self.layout.path()).ok()??)
    }
}

impl fmt::Debug for Mmdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mmdb({}, {} nodes)", self.reader.metadata().database_type, self.reader.metadata().node_count)
    }
}

#[cfg(test)]
mod tests;
