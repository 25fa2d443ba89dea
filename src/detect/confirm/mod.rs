//! Second looks: after Hyperscan found a candidate, a confirm function demands what an interpreter would execute.
//!
//! One file per grammar. A confirm function reads the whole view once, never panics and never allocates more than a
//! constant. What it reads beyond, ahead of each candidate, it takes from the value's `Work`, and it stops when that is
//! spent. Rows name their confirm function in `patterns/*.yaml`.

mod code;
mod crlf;
mod css;
mod events;
mod files;
mod guard_core;
mod html;
mod javascript;
mod jndi;
mod ldap;
mod nosql;
mod path;
mod players;
mod scan;
mod serialized;
mod shell;
mod sql;
mod template;
mod url;
mod xml;

use std::ops::Range;

use crate::detect::work::Work;
use crate::detect::{Context, Kind, View};

/// What a confirm function sees.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The view the row matched in.
    pub text: &'a str,
    /// Where Hyperscan's first match of the row ended in `text`, in bytes. For rows without a confirm function; a
    /// confirm function must not read it, because its answer is kept for every row that asks about this text.
    pub end: usize,
    /// Which view it is. Not for confirm functions: views may share a text.
    pub view: View,
    /// Where the value came from. Second looks do not read its name here: `name` asks for it, so that the answer is
    /// kept for that name alone.
    pub context: &'a Context<'a>,
    /// The value before any decoding.
    pub raw: &'a str,
    /// What second looks may still spend on this value.
    pub(crate) work: &'a Work,
}

impl<'a> Candidate<'a> {
    /// The name of the value. Verdicts for which nobody asked hold under any name.
    fn name(&self) -> &'a str {
        self.work.note_name();
        &self.context.name
    }

    /// Where the value itself starts: a cookie comes with its name.
    fn value_start(&self) -> usize {
        match self.context.kind {
            Kind::Cookie => self.text.find('=').map_or(0, |equals| equals + 1),
            _ => 0,
        }
    }

    /// The value itself.
    fn value(&self) -> &str {
        self.text.get(self.value_start()..).unwrap_or_default()
    }
}

/// Returns the byte range in `text` that convicts, or `None`.
pub type Confirm = fn(&Candidate<'_>) -> Option<Range<usize>>;

/// Judges one match of the row's own expression: a byte range in `text`.
pub type Check = fn(&Candidate<'_>, &Range<usize>) -> bool;

/// The second look of a row.
#[derive(Clone, Copy, Debug)]
pub enum Second {
    /// Reads the view by itself.
    Find(Confirm),
    /// Judges the matches of the row's expression, left to right.
    Check(Check),
}

/// The second look a row names.
#[must_use]
pub fn named(name: &str) -> Option<Second> {
    let find = TABLE.iter().find(|(known, _)| *known == name).map(|(_, confirm)| Second::Find(*confirm));
    find.or_else(|| guard_core::CHECKS.iter().find(|(known, _)| *known == name).map(|(_, check)| Second::Check(*check)))
}

/// Every confirm function by name, in alphabetical order.
const TABLE: &[(&str, Confirm)] = &[
    ("code_call", code::call),
    ("code_php_script", code::php_script),
    ("crlf_injected_line", crlf::injected_line),
    ("files_agent_name", files::agent_name),
    ("files_probed_path", files::probed_path),
    ("files_upload_name", files::upload_name),
    ("html_attribute_breakout", html::attribute_breakout),
    ("html_injected_markup", html::injected_markup),
    ("html_live_tag", html::live_tag),
    ("jndi_lookup", jndi::lookup),
    ("js_script_url", javascript::script_url),
    ("js_string_breakout", javascript::string_breakout),
    ("js_symbol_code", javascript::symbol_code),
    ("js_template_literal", javascript::template_literal),
    ("js_whole_expression", javascript::whole_expression),
    ("ldap_filter", ldap::filter_breakout),
    ("nosql_name", nosql::operator_name),
    ("nosql_script", nosql::script),
    ("nosql_value", nosql::operator_value),
    ("path_escapes_root", path::escapes_root),
    ("path_machine", path::machine_path),
    ("path_secret_file", path::secret_file),
    ("php_object", serialized::php_object),
    ("pickle", serialized::pickle),
    ("shell_call_with_command", shell::call_with_command),
    ("shell_separated_command", shell::separated_command),
    ("shell_whole_command", shell::whole_command),
    ("sql_fragment", sql::fragment),
    ("template_expression", template::expression),
    ("url_internal_target", url::internal_target),
    ("xml_doctype", xml::doctype),
    ("xml_entity", xml::entity),
    ("xml_inclusion", xml::inclusion),
];

#[cfg(test)]
mod testing {
    //! Candidates for the tables of the grammars.

    use super::*;
    use crate::detect::Source;

    /// A query value.
    pub(super) fn query(text: &str) -> Candidate<'_> {
        candidate(text, Source::Query, Kind::Value)
    }

    /// A leaf of a JSON body.
    pub(super) fn body(text: &str) -> Candidate<'_> {
        candidate(text, Source::Body, Kind::JsonLeaf)
    }

    pub(super) fn candidate(text: &str, source: Source, kind: Kind) -> Candidate<'_> {
        let context = match (source, kind) {
            (Source::Query, _) => &QUERY,
            (Source::Path, _) => &PATH,
            (Source::Header, _) => &HEADER,
            (_, Kind::JsonLeaf) => &LEAF,
            _ => &BODY,
        };
        Candidate { text, end: text.len(), view: View::Decoded, context, raw: text, work: work(text.len()) }
    }

    /// What a value of so many bytes may spend.
    pub(super) fn work(bytes: usize) -> &'static Work {
        Box::leak(Box::new(Work::of(bytes)))
    }

    static QUERY: Context<'static> = place(Source::Query, Kind::Value);
    static PATH: Context<'static> = place(Source::Path, Kind::Value);
    static HEADER: Context<'static> = place(Source::Header, Kind::Value);
    static BODY: Context<'static> = place(Source::Body, Kind::Value);
    static LEAF: Context<'static> = place(Source::Body, Kind::JsonLeaf);

    const fn place(source: Source, kind: Kind) -> Context<'static> {
        Context { source, name: std::borrow::Cow::Borrowed("name"), kind }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::candidate;
    use super::*;
    use crate::detect::Source;

    #[test]
    fn no_crowd_of_harmless_places_hides_the_one_that_acts() {
        let (query, body) = (Source::Query, Source::Body);
        for (name, source, harmless, attack) in [
            ("crlf_injected_line", query, "a\r\n", "Set-Cookie: a=b"),
            ("crlf_injected_line", body, "a\\r\\n", "Set-Cookie: a=b"),
            ("html_injected_markup", query, "a<b ", "<img src=x>"),
            ("js_string_breakout", query, "\"a\" 'b' and padding ", "';alert(1)//"),
            ("js_template_literal", query, "$a ", "${alert(1)}"),
            ("nosql_script", query, "'a' \"b\" ", "'; return true;"),
            ("nosql_value", query, "$a ", ",$where: 1"),
            ("shell_call_with_command", query, "a(b) ", "system(\"id\")"),
            ("shell_separated_command", query, "a;", "cat /etc/passwd"),
            ("sql_fragment", query, "a' ", "' or 1=1 --"),
            ("template_expression", query, "{a} ", "{{8*8}}"),
            ("url_internal_target", query, "http://a.example/b ", "http://169.254.169.254/"),
            ("xml_doctype", body, "<!-- a -->", "<!DOCTYPE a SYSTEM \"file:///b\">"),
            ("xml_entity", body, "<!-- a -->", "<!ENTITY a SYSTEM \"file:///b\">"),
            ("xml_inclusion", body, "<a b='c'/>", "<xi:include href='b'/>"),
        ] {
            let Some(Second::Find(confirm)) = named(name) else { panic!("{name} is no confirm function") };
            for times in [1, 10, 100, 3000] {
                let text = harmless.repeat(times) + attack;
                let candidate = candidate(&text, source, Kind::Value);
                assert!(
                    confirm(&candidate).is_some() || candidate.work.is_spent(),
                    "{name} behind {times} of {harmless:?}"
                );
            }
        }
    }
}
