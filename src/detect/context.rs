//! A value's place, to and from guard-core's text form.

use std::borrow::Cow;
use std::fmt;

use crate::detect::{Context, Kind, Source};

impl Source {
    /// Every source, in mask order.
    pub(crate) const ALL: [Self; 5] = [Self::Query, Self::Header, Self::Path, Self::Body, Self::Unknown];

    /// The position in [`Source::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Query => 0,
            Self::Header => 1,
            Self::Path => 2,
            Self::Body => 3,
            Self::Unknown => 4,
        }
    }

    /// guard-core's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query_param",
            Self::Header => "header",
            Self::Path => "url_path",
            Self::Body => "request_body",
            Self::Unknown => "unknown",
        }
    }
}

impl<'r> Context<'r> {
    /// A plain value of `source` called `name`.
    pub fn new(source: Source, name: impl Into<Cow<'r, str>>) -> Self {
        Self { source, name: name.into(), kind: Kind::Value }
    }

    /// The same place, with a finer kind.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Reads guard-core's text form, such as `query_param:id` or `header:cookie`. Never fails: text that names no
    /// source is [`Source::Unknown`].
    #[must_use]
    pub fn parse(text: &'r str) -> Self {
        let (head, rest) = text.split_once(':').unwrap_or((text, ""));
        let source = Source::ALL.into_iter().find(|source| source.name() == head).unwrap_or(Source::Unknown);
        if let Some(key) = key_of_embedded_json(rest) {
            return Self::new(source, key).of_kind(Kind::EmbeddedJsonKey);
        }
        if let Some(outer) = rest.strip_suffix("embedded_json").filter(|outer| outer.is_empty() || outer.ends_with(':'))
        {
            return Self::new(source, outer.trim_end_matches(':')).of_kind(Kind::EmbeddedJson);
        }
        let kind = match (source, rest) {
            (Source::Body, "") => Kind::Value,
            (Source::Body, "form_field") => Kind::FormField,
            (Source::Body, "multipart_field") => Kind::MultipartField,
            (Source::Body, _) => Kind::JsonKey,
            (Source::Header, "cookie") => Kind::Cookie,
            _ => Kind::Value,
        };
        Self::new(source, rest).of_kind(kind)
    }
}

fn key_of_embedded_json(rest: &str) -> Option<&str> {
    let start = rest.find("embedded_json:")?;
    rest.get(start..)?.strip_prefix("embedded_json:")
}

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.name())?;
        match self.kind {
            Kind::EmbeddedJson => {
                colon_name(&self.name, f)?;
                f.write_str(":embedded_json")
            }
            Kind::EmbeddedJsonKey => {
                f.write_str(":embedded_json")?;
                colon_name(&self.name, f)
            }
            Kind::FormField => f.write_str(":form_field"),
            Kind::MultipartField | Kind::Island => f.write_str(":multipart_field"),
            Kind::JsonKey => colon_name(&self.name, f),
            Kind::Value | Kind::Name | Kind::JsonLeaf | Kind::Cookie | Kind::Xml => match self.source {
                Source::Query | Source::Header => colon_name(&self.name, f),
                Source::Path | Source::Body | Source::Unknown => Ok(()),
            },
        }
    }
}

fn colon_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if name.is_empty() { Ok(()) } else { write!(f, ":{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_survives_a_round_trip() {
        for text in [
            "query_param",
            "query_param:id",
            "header:cookie",
            "url_path",
            "request_body",
            "request_body:form_field",
            "request_body:multipart_field",
            "request_body:name",
            "query_param:q:embedded_json",
            "header:embedded_json:key",
            "unknown",
        ] {
            assert_eq!(Context::parse(text).to_string(), text);
        }
        assert_eq!(Context::parse("nonsense:x").source, Source::Unknown);
    }
}
