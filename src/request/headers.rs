//! Header fields, borrowed.

use smallvec::SmallVec;

/// Fields kept on the stack; browsers send 14 to 25, Envoy adds up to 6.
const INLINE: usize = 32;

/// One field. The name is lower case when it comes from Envoy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header<'r> {
    /// Field name.
    pub name: &'r str,
    /// Field value, as bytes: not all values are UTF-8.
    pub value: &'r [u8],
}

impl<'r> Header<'r> {
    /// The value when it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'r str> {
        simdutf8::basic::from_utf8(self.value).ok()
    }
}

/// All fields of a request, pseudo-headers and Envoy's own notes left out.
#[derive(Clone, Debug, Default)]
pub struct Headers<'r> {
    fields: SmallVec<[Header<'r>; INLINE]>,
}

impl<'r> Headers<'r> {
    /// Adds a field.
    pub fn push(&mut self, name: &'r str, value: &'r [u8]) {
        self.fields.push(Header { name, value });
    }

    /// The first field called `name`, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'r [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The first field called `name`, when it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'r str> {
        self.get(name).and_then(|value| simdutf8::basic::from_utf8(value).ok())
    }

    /// Every field called `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'r [u8]> + 'a {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'r>> + '_ {
        self.fields.iter().copied()
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Orders the fields by name, so that a map's random order cannot change what is found first.
    pub fn sort(&mut self) {
        self.fields.sort_by(|a, b| a.name.cmp(b.name));
    }
}

impl<'r> FromIterator<(&'r str, &'r [u8])> for Headers<'r> {
    fn from_iter<I: IntoIterator<Item = (&'r str, &'r [u8])>>(fields: I) -> Self {
        Self { fields: fields.into_iter().map(|(name, value)| Header { name, value }).collect() }
    }
}
