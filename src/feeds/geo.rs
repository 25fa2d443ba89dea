//! Countries and operators from MaxMind database files, in the layouts of MaxMind and IPinfo. The only door to `maxminddb`.

use std::fmt;

use maxminddb::{PathElement, Reader};
use sha2::{Digest as _, Sha256};

use crate::model::addr::ClientAddr;
use crate::model::place::{Countries, CountryCode, Operator};
use crate::state::Digest;

/// A database in memory: as many bytes as the file has, shared by all snapshots that use it.
pub struct Mmdb {
    reader: Reader<Vec<u8>>,
    countries: Option<Layout>,
    operators: Option<Operators>,
    digest: Digest,
}

/// Where a record keeps the number of its autonomous system, and the organisation's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operators {
    /// `autonomous_system_number`, as MaxMind's databases of autonomous systems do.
    Number,
    /// The same below `traits`, as MaxMind's larger databases do.
    Traits,
    /// `asn` as a text that begins with AS, as IPinfo does.
    Text,
}

impl Operators {
    const ALL: [Self; 3] = [Self::Number, Self::Traits, Self::Text];

    const fn number(self) -> &'static [PathElement<'static>] {
        match self {
            Self::Number => &[PathElement::Key("autonomous_system_number")],
            Self::Traits => &[PathElement::Key("traits"), PathElement::Key("autonomous_system_number")],
            Self::Text => &[PathElement::Key("asn")],
        }
    }

    const fn name(self) -> &'static [PathElement<'static>] {
        match self {
            Self::Number => &[PathElement::Key("autonomous_system_organization")],
            Self::Traits => &[PathElement::Key("traits"), PathElement::Key("autonomous_system_organization")],
            Self::Text => &[PathElement::Key("as_name")],
        }
    }
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

/// Why a file cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GeoError {
    /// The file is not in the format.
    #[error("is not a MaxMind database: {0}")]
    Format(String),
    /// No record says a country in a way we know.
    #[error("holds no country codes")]
    NoCountries,
    /// No record says an autonomous system in a way we know.
    #[error("holds no autonomous systems")]
    NoOperators,
}

/// Records looked at to find out the layout.
const PROBED_RECORDS_MAX: usize = 1000;

impl Mmdb {
    /// Opens a database of countries that was read into memory.
    ///
    /// # Errors
    /// When the bytes are no database, or none of its first records says a country.
    pub fn new(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let mmdb = Self::open(bytes)?;
        mmdb.countries.is_some().then_some(mmdb).ok_or(GeoError::NoCountries)
    }

    /// Opens a database of autonomous systems that was read into memory.
    ///
    /// # Errors
    /// When the bytes are no database, or none of its first records says an autonomous system.
    pub fn of_operators(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let mmdb = Self::open(bytes)?;
        mmdb.operators.is_some().then_some(mmdb).ok_or(GeoError::NoOperators)
    }

    fn open(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let digest = Digest(Sha256::digest(&bytes).into());
        let reader = Reader::from_source(bytes).map_err(|error| GeoError::Format(error.to_string()))?;
        let mut mmdb = Self { reader, countries: None, operators: None, digest };
        (mmdb.countries, mmdb.operators) = mmdb.layouts()?;
        Ok(mmdb)
    }

    /// Tells this file from any other.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Networks in the database, roughly.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.reader.metadata().node_count.into()
    }

    /// Where the first records keep what we look for.
    fn layouts(&self) -> Result<(Option<Layout>, Option<Operators>), GeoError> {
        let networks = self.reader.networks(Default::default());
        let networks = networks.map_err(|error| GeoError::Format(error.to_string()))?;
        let (mut countries, mut operators) = (None, None);
        for found in networks.take(PROBED_RECORDS_MAX).flatten() {
            let tells = |layout: &Layout| {
                found.decode_path::<&str>(layout.path()).is_ok_and(|text| text.and_then(CountryCode::new).is_some())
            };
            countries = countries.or_else(|| Layout::ALL.into_iter().find(tells));
            operators = operators.or_else(|| Operators::ALL.into_iter().find(|layout| asn(&found, *layout).is_some()));
            if countries.is_some() && operators.is_some() {
                break;
            }
        }
        Ok((countries, operators))
    }
}

type Found<'d> = maxminddb::LookupResult<'d, Vec<u8>>;

fn asn(found: &Found<'_>, layout: Operators) -> Option<u32> {
    match layout {
        Operators::Number | Operators::Traits => found.decode_path(layout.number()).ok()?,
        Operators::Text => found.decode_path::<&str>(layout.number()).ok()??.strip_prefix("AS")?.parse().ok(),
    }
}

impl Countries for Mmdb {
    fn country(&self, addr: ClientAddr) -> Option<CountryCode> {
        let found = self.reader.lookup(addr.ip()).ok()?;
        CountryCode::new(found.decode_path::<&str>(self.countries?.path()).ok()??)
    }

    fn operator(&self, addr: ClientAddr) -> Option<Operator<'_>> {
        let layout = self.operators?;
        let found = self.reader.lookup(addr.ip()).ok()?;
        let name = found.decode_path::<&str>(layout.name()).ok().flatten();
        Some(Operator { asn: asn(&found, layout)?, name })
    }
}

impl fmt::Debug for Mmdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mmdb({}, {} nodes)", self.reader.metadata().database_type, self.reader.metadata().node_count)
    }
}

#[cfg(test)]
mod tests;
