//! What the upstream and the metadata are told about where a client is.

use smallvec::SmallVec;

use crate::config::data::DataConfig;
use crate::engine::cx::Cx;
use crate::model::headers::HeaderEdit;

/// Stands for a country that is not known: the code that ISO 3166 leaves to users.
const NO_COUNTRY: &str = "ZZ";
/// Stands for an autonomous system that is not known: the number that is reserved for it.
const NO_ASN: &str = "0";

/// Names of the headers that the upstream wants; lower case.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    country: Option<Box<str>>,
    asn: Option<Box<str>>,
}

impl Whereabouts {
    pub(crate) fn compile(config: &DataConfig) -> Self {
        let lower = |name: &Option<String>| name.as_ref().map(|name| name.to_ascii_lowercase().into());
        Self { country: lower(&config.country_header), asn: lower(&config.asn_header) }
    }

    /// The headers for an allowed request. Each is always set, so that what the client sent never reaches the upstream.
    pub(crate) fn tell<'p>(&'p self, cx: &mut Cx<'_, 'p, '_>) -> SmallVec<[HeaderEdit<'p>; 1]> {
        let mut edits = SmallVec::new();
        if let Some(name) = &self.country {
            let value = cx.country().map_or_else(|| NO_COUNTRY.to_owned(), |code| code.to_string());
            edits.push(HeaderEdit::set(&**name, value));
        }
        if let Some(name) = &self.asn {
            let value = cx.operator().map_or_else(|| NO_ASN.to_owned(), |operator| operator.asn.to_string());
            edits.push(HeaderEdit::set(&**name, value));
        }
        edits
    }
}
