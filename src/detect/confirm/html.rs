//! Markup that runs: tags as a browser's tokeniser would read them, judged by what they would execute or load.
//!
//! Every `<` is tried as the start of a tag, whatever stands around it: the attacker picks the context, and mutation
//! tricks hide a tag in another tag's attribute. Plain markup passes.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::css;
use crate::detect::confirm::events::is_handler;
use crate::detect::confirm::javascript;
use crate::detect::confirm::players;
use crate::detect::confirm::scan::{Folded, at, find, has, is_blank, part, skip};
use crate::detect::{Kind, Source, work};

/// A tag is read up to this many bytes.
const TAG_BYTES_MAX: usize = 4096;
/// Script or style text behind a tag is read up to this many bytes.
const CONTENT_BYTES_MAX: usize = 4096;
/// What telling one attribute from the next costs besides its bytes.
const NAME_COST: usize = 8;
/// What judging an attribute's value costs besides its bytes.
const VALUE_COST: usize = 24;
/// Bytes read again, beyond twice the text, before nested tags are no longer tried.
const REREAD_BYTES_MAX: usize = 2 * 1024;

/// A tag with a live handler, an executing URL, active content or a script.
pub(crate) fn live_tag(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let page = Page { text, is_document: is_document(candidate) };
    let mut credit = text.len().saturating_mul(2).saturating_add(REREAD_BYTES_MAX);
    let mut from = 0;
    while let Some(open) = find(text, from, b'<') {
        let name_at = skip(text, open + 1, 8, |byte| byte.is_ascii_control());
        if !starts_a_tag(at(text, name_at)) {
            from = open + 1;
            continue;
        }
        let (is_live, end) = page.judge(name_at);
        if is_live {
            return Some(open..end);
        }
        if !candidate.work.goes_on() {
            return None;
        }
        // Nested tags are tried too, as long as the credit for reading bytes again lasts.
        from = if credit == 0 { end.max(open + 1) } else { name_at };
        credit = credit.saturating_sub(end - open + 32);
    }
    None
}

/// Markup with attributes where no form field or document belongs: in a query, a cookie or another header.
pub(crate) fn injected_markup(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    if !matches!(candidate.context.source, Source::Query | Source::Header) {
        return None;
    }
    let text = candidate.text.as_bytes();
    let last_close = memchr::memrchr(b'>', text)?;
    let mut from = 0;
    while candidate.work.goes_on() {
        let open = find(text, from, b'<')?;
        from = open + 1;
        let name_end = skip(text, from, 20, |byte| byte.is_ascii_alphanumeric());
        if last_close < name_end
            || !separates(at(text, name_end))
            || !is_element(Folded::<16>::of(part(text, from, name_end)).bytes())
        {
            continue;
        }
        let mut attributes = Attributes { text, at: name_end, limit: text.len().min(from + TAG_BYTES_MAX / 4) };
        if attributes.any(|attribute| !attribute.value.is_empty() && !attribute.name.bytes().is_empty()) {
            return Some(open..attributes.at);
        }
    }
    None
}

/// Elements that pages and forms are built from; those that only format text or link are left out.
fn is_element(name: &[u8]) -> bool {
    ELEMENTS.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
}

/// Sorted, for binary search.
const ELEMENTS: &[&str] = &[
    "area",
    "article",
    "aside",
    "audio",
    "body",
    "button",
    "canvas",
    "circle",
    "col",
    "details",
    "dialog",
    "div",
    "embed",
    "feimage",
    "fieldset",
    "foreignobject",
    "form",
    "frame",
    "frameset",
    "g",
    "head",
    "header",
    "html",
    "iframe",
    "image",
    "img",
    "input",
    "isindex",
    "keygen",
    "label",
    "link",
    "main",
    "map",
    "marquee",
    "mask",
    "math",
    "menu",
    "meta",
    "nav",
    "noscript",
    "object",
    "option",
    "param",
    "path",
    "picture",
    "plaintext",
    "rect",
    "section",
    "select",
    "set",
    "source",
    "style",
    "summary",
    "svg",
    "template",
    "textarea",
    "title",
    "track",
    "use",
    "video",
    "xml",
    "xmp",
];

/// A handler attribute that broke out of a quoted or unquoted attribute value: `" onfocus=run() autofocus x="`.
pub(crate) fn attribute_breakout(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut quoted = false;
    let mut from = 0;
    while let Some(equals) = find(text, from, b'=') {
        quoted = quoted || part(text, from, equals).iter().any(|byte| is_quote(*byte));
        from = equals + 1;
        if !candidate.work.goes_on() {
            return None;
        }
        let Some(start) = handler_before(text, equals) else { continue };
        let value_at = skip(text, equals + 1, 32, is_blank);
        let (value, end) = attribute_value(text, value_at, text.len().min(value_at + TAG_BYTES_MAX));
        if !candidate.work.take(end - start) {
            return None;
        }
        let calls = if quoted || is_quote(at(text, value_at)) || start == 0 {
            javascript::has_effect(value)
        } else {
            javascript::reaches_sink(value)
        };
        if calls {
            return Some(start..end);
        }
    }
    None
}

/// What one value is, as far as it matters to every tag in it.
struct Page<'a> {
    text: &'a [u8],
    is_document: bool,
}

/// One attribute.
struct Attribute<'a> {
    name: Folded<24>,
    value: &'a [u8],
}

/// What the attributes of one tag do.
#[derive(Default)]
struct Facts {
    runs: bool,
    loads: bool,
    loads_elsewhere: bool,
    data_type: bool,
    refresh: bool,
    sets_handler: bool,
    imports: bool,
}

impl Page<'_> {
    /// Reads the tag whose name starts at `name_at`. True when it is live; its end.
    fn judge(&self, name_at: usize) -> (bool, usize) {
        let limit = self.text.len().min(name_at + TAG_BYTES_MAX);
        let name_end = skip(self.text, name_at, TAG_BYTES_MAX, |byte| {
            !is_blank(byte) && !matches!(byte, b'/' | b'>' | b'"' | b'<')
        });
        let name = local_name(part(self.text, name_at, name_end));
        let mut facts = Facts::default();
        let mut attributes = Attributes { text: self.text, at: name_end, limit };
        while let Some(attribute) = attributes.next() {
            facts.note(name.bytes(), &attribute);
            if facts.runs {
                return (true, attributes.at);
            }
        }
        let end = attributes.at;
        let is_closed = at(self.text, end.wrapping_sub(1)) == b'>';
        let is_content_read = is_closed && is_named(name.bytes(), &[b"script", b"style"]);
        let content = if is_content_read { content_at(self.text, end) } else { &[] };
        (self.is_active(name.bytes(), &facts, content), end)
    }

    /// True for a tag that is live by what it is.
    fn is_active(&self, name: &[u8], facts: &Facts, content: &[u8]) -> bool {
        match name {
            b"script" => facts.loads || !facts.data_type && script_runs(content),
            b"style" => css::executes(until_end_tag(content), css::Place::Sheet),
            b"iframe" | b"frame" | b"portal" | b"fencedframe" => {
                facts.loads && (!self.is_document || facts.loads_elsewhere)
            }
            b"object" | b"embed" | b"applet" | b"layer" | b"ilayer" | b"xml" => facts.loads,
            b"bgsound" | b"isindex" => facts.loads && !self.is_document,
            b"base" => facts.loads,
            b"meta" => facts.refresh,
            b"link" => facts.imports || facts.loads && !self.is_document,
            b"set" | b"animate" | b"handler" | b"listener" => facts.sets_handler,
            b"?import" | b"?xml-stylesheet" => facts.imports,
            _ => false,
        }
    }
}

impl Facts {
    fn note(&mut self, tag: &[u8], attribute: &Attribute<'_>) {
        let name = local_part(attribute.name.bytes());
        let value = attribute.value;
        if value.is_empty() {
            return;
        }
        match name {
            b"href" | b"src" | b"data" | b"code" | b"codebase" | b"classid" | b"archive" | b"srcdoc" | b"movie" => {
                let loads = !is_empty(value) && (name == b"srcdoc" || !starts_with_placeholder(value));
                let loads = loads && !(tag == b"iframe" && name == b"src" && players::plays(value));
                self.loads |= loads;
                self.loads_elsewhere |= loads && (name == b"srcdoc" || !is_web_address(value));
                self.imports |= tag == b"?xml-stylesheet" && value.starts_with(b"data:");
            }
            b"http-equiv" => {
                self.refresh |= matches!(Folded::<12>::of(value).bytes(), b"refresh" | b"set-cookie" | b"link")
            }
            b"content" | b"charset" => self.refresh |= names_utf7(value),
            b"attributename" => {
                let target = Folded::<24>::of(value);
                self.sets_handler |= is_handler(target.bytes())
                    || is_named(local_part(target.bytes()), &[b"href", b"innerhtml", b"outerhtml", b"srcdoc"]);
            }
            b"event" => self.sets_handler |= is_named(tag, &[b"handler", b"listener"]),
            b"implementation" => self.imports |= tag == b"?import",
            b"rel" => self.imports |= has(value, 0, b"import"),
            b"type" if tag == b"script" => self.data_type |= is_data_type(value),
            b"language" | b"contentscripttype" => self.loads |= tag == b"script" && has(value, 0, b"vb"),
            // Data islands of old browsers put their text in as markup.
            b"datasrc" | b"dataformatas" => self.runs |= !value.is_empty(),
            b"style" => self.runs |= css::executes(value, css::Place::Attribute),
            _ => {}
        }
        self.runs |= if is_handler_like(name) {
            handler_runs(value)
        } else if name.starts_with(b"on") && 4 < name.len() {
            // Browsers learn new events faster than lists do.
            javascript::reaches_sink(value)
        } else {
            !is_named(name, &[b"title", b"alt", b"placeholder", b"value", b"class", b"id"]) && url_runs(tag, value)
        };
    }
}

/// Reads attributes one by one; `at` ends behind the `>` or at the limit.
struct Attributes<'a> {
    text: &'a [u8],
    at: usize,
    limit: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let text = self.text;
        work::read(NAME_COST);
        let start = skip(text, self.at, self.limit, |byte| separates(byte) || is_quote(byte));
        if self.limit <= start {
            self.at = self.limit;
            return None;
        }
        if at(text, start) == b'>' {
            self.at = start + 1;
            return None;
        }
        // An equals sign in the first place is part of the name, as the standard says.
        let name_end =
            skip(text, start + 1, self.limit - start, |byte| !separates(byte) && !matches!(byte, b'>' | b'='))
                .min(self.limit);
        let mut equals = skip(text, name_end, 64, |byte| is_blank(byte) || byte == 0);
        if at(text, equals) != b'=' && !at(text, name_end).is_ascii_punctuation() {
            self.at = name_end;
            return Some(Attribute { name: Folded::new(), value: &[] });
        }
        let name = Folded::of(part(text, start, name_end));
        if at(text, equals) != b'=' && is_handler_like(local_part(name.bytes())) {
            // Old parsers read over punctuation between a handler's name and its value.
            equals = skip(text, name_end, 24, |byte| {
                byte.is_ascii_punctuation() && !matches!(byte, b'=' | b'>' | b'<' | b'"' | b'\'')
            });
        }
        if at(text, equals) != b'=' || self.limit <= equals {
            self.at = name_end;
            return Some(Attribute { name, value: &[] });
        }
        let value_at = skip(text, equals + 1, 64, |byte| is_blank(byte) || byte == 0);
        let (value, end) = attribute_value(text, value_at, self.limit);
        self.at = end;
        work::read(VALUE_COST);
        Some(Attribute { name, value })
    }
}

/// The value that starts at `start`, and where it ends. A quote that never closes does not count as one.
fn attribute_value(text: &[u8], start: usize, limit: usize) -> (&[u8], usize) {
    let quote = at(text, start);
    if is_quote(quote)
        && let Some(close) = find(part(text, 0, limit), start + 1, quote)
    {
        return (part(text, start + 1, close), close + 1);
    }
    let from = if is_quote(quote) { start + 1 } else { start };
    let end = skip(text, from, limit.saturating_sub(from), |byte| 0x20 < byte && byte != b'>');
    (part(text, from, end), end.max(start))
}

const fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

/// Bytes between attributes; old browsers took other control characters too.
const fn separates(byte: u8) -> bool {
    byte <= 0x20 || byte == b'/'
}

const fn starts_a_tag(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'?')
}

/// The tag's name without a namespace prefix: `<h:script>` runs in XHTML.
fn local_name(name: &[u8]) -> Folded<16> {
    let colon = memchr::memchr(b':', name).map_or(0, |colon| colon + 1);
    Folded::of(part(name, colon, name.len()))
}

fn local_part(name: &[u8]) -> &[u8] {
    let colon = memchr::memchr(b':', name).map_or(0, |colon| colon + 1);
    part(name, colon, name.len())
}

fn is_named(name: &[u8], names: &[&[u8]]) -> bool {
    names.contains(&name)
}

/// A handler's name, also with punctuation glued to it.
fn is_handler_like(name: &[u8]) -> bool {
    let letters = skip(name, 0, name.len(), |byte| byte.is_ascii_alphanumeric());
    is_handler(part(name, 0, letters)) && !name.iter().skip(letters).any(u8::is_ascii_alphanumeric)
}

/// The handler's name that ends before the equals sign at `equals`, when nothing glues it to a word before.
fn handler_before(text: &[u8], equals: usize) -> Option<usize> {
    let mut end = equals;
    while 0 < end && equals - end < 8 && (is_blank(at(text, end - 1)) || at(text, end - 1) == 0) {
        end -= 1;
    }
    let mut start = end;
    while 0 < start && end - start < 40 && at(text, start - 1).is_ascii_alphanumeric() {
        start -= 1;
    }
    let before = if start == 0 { b' ' } else { at(text, start - 1) };
    let stands_alone = separates(before) || is_quote(before) || matches!(before, b'\\' | b'>' | b';');
    (stands_alone && is_handler(Folded::<40>::of(part(text, start, end)).bytes())).then_some(start)
}

/// A handler's text does something. A brace in front is a block in HTML but a template's placeholder in most texts.
fn handler_runs(value: &[u8]) -> bool {
    let start = skip(value, 0, value.len(), is_blank);
    match at(value, start) {
        0 => false,
        b'{' => is_balanced(part(value, start, value.len())) && javascript::reaches_sink(value),
        _ => true,
    }
}

fn is_balanced(value: &[u8]) -> bool {
    let mut depth = 0i32;
    for byte in value {
        match byte {
            b'{' | b'(' => depth += 1,
            b'}' | b')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// A URL whose scheme runs script, or a data URL with a document.
fn url_runs(tag: &[u8], value: &[u8]) -> bool {
    match scheme(value) {
        Some((Scheme::Script, rest)) => !javascript::is_idle(part(value, rest, value.len())),
        Some((Scheme::Data, rest)) => {
            let kind = Folded::<24>::of(part(value, rest, rest + 24));
            let kind = kind.bytes();
            let is_inert = [
                &b"image/"[..],
                b"font/",
                b"audio/",
                b"video/",
                b"application/font",
                b"application/pdf",
                b"text/plain",
                b"text/css",
            ]
            .iter()
            .any(|inert| kind.starts_with(inert));
            !is_inert || is_document_tag(tag) && kind.starts_with(b"image/svg")
        }
        Some((Scheme::Package, _)) => is_document_tag(tag),
        None => false,
    }
}

fn is_document_tag(tag: &[u8]) -> bool {
    is_named(
        tag,
        &[b"iframe", b"frame", b"object", b"embed", b"use", b"script", b"link", b"a", b"portal", b"set", b"animate"],
    )
}

/// What a URL's scheme can do.
enum Scheme {
    Script,
    Data,
    Package,
}

/// The scheme of a URL as lenient parsers read it, and where the rest starts: junk in front and control characters inside are dropped.
fn scheme(value: &[u8]) -> Option<(Scheme, usize)> {
    let start = skip(value, 0, 24, |byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'/' | b'.' | b'?' | b'&'));
    let mut name = Folded::<12>::new();
    for (index, byte) in value.iter().enumerate().skip(start).take(48) {
        match byte {
            b':' => {
                let scheme = match name.bytes() {
                    b"javascript" | b"vbscript" | b"livescript" | b"jscript" | b"mocha" => Scheme::Script,
                    b"data" => Scheme::Data,
                    b"mhtml" | b"view-source" | b"wyciwyg" => Scheme::Package,
                    _ => return None,
                };
                return Some((scheme, index + 1));
            }
            byte if byte.is_ascii_alphanumeric() || *byte == b'-' => name.push(*byte),
            byte if *byte <= 0x20 || *byte == b'\\' => {}
            _ => return None,
        }
    }
    None
}

/// The script text behind a tag does something, rather than going on with a sentence.
fn script_runs(content: &[u8]) -> bool {
    let script = until_end_tag(content);
    let is_ended = script.len() < content.len();
    if is_ended {
        javascript::has_effect(script)
    } else {
        javascript::reaches_sink(script) || javascript::is_dense(script)
    }
}

/// The text behind a tag, up to the next tag of its kind: nothing is read twice.
fn content_at(text: &[u8], start: usize) -> &[u8] {
    let content = part(text, start, start + CONTENT_BYTES_MAX);
    let next = memchr::memchr_iter(b'<', content)
        .find(|open| has(content, open + 1, b"script") || has(content, open + 1, b"style"));
    next.map_or(content, |next| part(content, 0, next))
}

/// The text before the next end tag.
fn until_end_tag(content: &[u8]) -> &[u8] {
    memchr::memmem::find(content, b"</").map_or(content, |end| part(content, 0, end))
}

fn is_empty(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte <= 0x20 || *byte == b'#')
}

/// `{{ url }}`, `${url}` and `<url>` belong to a template, not to an address.
fn starts_with_placeholder(value: &[u8]) -> bool {
    matches!(at(value, 0), b'{' | b'<') || value.starts_with(b"${")
}

fn is_web_address(value: &[u8]) -> bool {
    has(value, 0, b"https://") || has(value, 0, b"http://")
}

/// Types whose script element is data.
fn is_data_type(value: &[u8]) -> bool {
    let kind = Folded::<40>::of(value);
    let data = [&b"json"[..], b"template", b"html", b"importmap", b"speculationrules", b"text/plain"];
    let begins = |at: usize| {
        let rest = part(kind.bytes(), at, kind.bytes().len());
        data.iter().any(|data| rest.starts_with(data))
    };
    let may_begin = |byte: &u8| matches!(byte, b'j' | b't' | b'h' | b'i' | b's');
    kind.bytes().iter().enumerate().any(|(at, byte)| may_begin(byte) && begins(at))
}

/// UTF-7 turns harmless bytes into tags.
fn names_utf7(value: &[u8]) -> bool {
    let folded = Folded::<64>::of(value);
    memchr::memmem::find(folded.bytes(), b"utf-7").is_some()
}

/// Rich text: a body's value in which frames of other sites are ordinary.
fn is_document(candidate: &Candidate<'_>) -> bool {
    candidate.context.source == Source::Body
        && matches!(candidate.context.kind, Kind::Value | Kind::JsonLeaf | Kind::FormField | Kind::MultipartField)
        && 200 < candidate.text.len()
}

#[cfg(test)]
mod tests;
