//! Findings that pass, because somebody looked at them and said so.

use crate::config::exclusions::Exclusion;
use crate::detect::{Context, Lens, Source, Threat};

/// Where a threat was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    /// Path of the request.
    pub(super) path: &'a str,
    /// Which value.
    pub(super) context: &'a Context<'a>,
    /// The way to it inside a structured body.
    pub(super) lens: Lens<'a>,
}

/// True when every part that the exclusion gives applies, and it gives one.
pub(super) fn excludes(exclusion: &Exclusion, threat: &Threat, spot: &Spot<'_>) -> bool {
    let Spot { path, context, lens } = spot;
    let named = |source: Source, name: &str| context.source == source && context.name.eq_ignore_ascii_case(name);
    let parts = [
        exclusion.category.as_deref().map(|category| threat.category.name() == category),
        exclusion.row.as_deref().map(|row| threat.row == row),
        exclusion.path.as_deref().map(|prefix| path.starts_with(prefix)),
        exclusion.header.as_deref().map(|name| named(Source::Header, name)),
        exclusion.param.as_deref().map(|name| named(Source::Query, name)),
        exclusion.body_field.as_deref().map(|name| named(Source::Body, name) || lens.place.passes(name)),
        exclusion.json_path.as_deref().map(|path| lens.place.is_at(path)),
    ];
    parts.iter().any(Option::is_some) && parts.iter().flatten().all(|applies| *applies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::detector::budget;
    use crate::detect::extract::place::{Place, Step};
    use crate::model::category::CategorySet;

    #[test]
    fn every_given_part_must_apply() {
        let steps = [Step::Key("items"), Step::Element, Step::Key("note")];
        let place = Place { outer: None, steps: &steps };
        let lens = Lens { categories: CategorySet::DETECTION, semantic: true, literal: false, place };
        let context = Context::new(Source::Body, "note");
        let spot = Spot { path: "/api/notes", context: &context, lens };
        let threat = budget("ROW");
        let some = |text: &str| Some(text.to_owned());
        for (exclusion, expected) in [
            (Exclusion::default(), false),
            (Exclusion { reason: some("because"), ..Exclusion::default() }, false),
            (Exclusion { row: some("ROW"), ..Exclusion::default() }, true),
            (Exclusion { row: some("ROW"), path: some("/admin"), ..Exclusion::default() }, false),
            (
                Exclusion {
                    category: some("custom"),
                    path: some("/api"),
                    body_field: some("NOTE"),
                    ..Exclusion::default()
                },
                true,
            ),
            (Exclusion { body_field: some("items"), ..Exclusion::default() }, true),
            (Exclusion { param: some("note"), ..Exclusion::default() }, false),
            (Exclusion { json_path: some("items[].note"), ..Exclusion::default() }, true),
            (Exclusion { json_path: some("items[].title"), ..Exclusion::default() }, false),
        ] {
            assert_eq!(excludes(&exclusion, &threat, &spot), expected, "{exclusion:?}");
        }
    }
}
