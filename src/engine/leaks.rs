//! What must not leave: finders over the text of a response body. Each finds the first leak of its kind and shows no
//! more of a secret than its ends.

use std::sync::LazyLock;

use regex::bytes::Regex;

use crate::config::responses::Leak;

mod cards;

/// A leak that lies across two parts of a body is found when it fits into this many bytes.
pub(crate) const OVERLAP: usize = 1024;
/// Characters of a secret that are shown at each end.
const SHOWN: usize = 4;
/// Memory that one compiled pattern may take, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A leak that was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    /// What exactly: an issuer, a service, a language, a database.
    pub(crate) label: &'static str,
    /// First byte.
    pub(crate) at: usize,
    /// What may be shown of it.
    pub(crate) sample: String,
}

/// Finds the first leak of a kind.
pub(crate) fn find(leak: Leak, text: &[u8]) -> Option<Found> {
    match leak {
        Leak::CardNumbers => cards::find(text),
        Leak::PrivateKeys => search(&PRIVATE_KEYS, text, secret),
        Leak::AwsKeys => search(&AWS_KEYS, text, secret),
        Leak::GithubTokens => search(&GITHUB_TOKENS, text, secret),
        Leak::ServiceTokens => search(&SERVICE_TOKENS, text, secret),
        Leak::Jwt => search(&JWT, text, secret),
        Leak::StackTraces => search(&STACK_TRACES, text, |_| String::new()),
        Leak::SqlErrors => search(&SQL_ERRORS, text, |_| String::new()),
    }
}

type Patterns = LazyLock<Vec<(&'static str, Regex)>>;

fn search(patterns: &Patterns, text: &[u8], show: fn(&[u8]) -> String) -> Option<Found> {
    let matches = patterns.iter().filter_map(|(label, regex)| {
        let found = regex.find_iter(text).find(|found| !is_example(found.as_bytes()))?;
        Some(Found { label, at: found.start(), sample: show(found.as_bytes()) })
    });
    matches.min_by_key(|found| found.at)
}

/// Keys of manuals say that they are examples.
fn is_example(key: &[u8]) -> bool {
    key.ends_with(b"EXAMPLE") || key.ends_with(b"EXAMPLEKEY")
}

/// The ends of a secret.
fn secret(bytes: &[u8]) -> String {
    let letters =
        |part: &[u8]| part.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect();
    let shown = SHOWN.min(bytes.len() / 4);
    let (head, tail) = (bytes.get(..shown), bytes.get(bytes.len() - shown..));
    let ends: [String; 2] = [head, tail].map(|part| part.map(letters).unwrap_or_default());
    let [head, tail] = ends;
    format!("{head}…{tail} ({} bytes)", bytes.len())
}

fn compiled(patterns: &[(&'static str, &str)]) -> Vec<(&'static str, Regex)> {
    let compile = |pattern: &str| {
        regex::bytes::RegexBuilder::new(pattern).unicode(false).size_limit(REGEX_BYTES_MAX).build().ok()
    };
    patterns.iter().filter_map(|(label, pattern)| Some((*label, compile(pattern)?))).collect()
}

macro_rules! patterns {
    ($($name:ident = { $($label:literal: $pattern:expr,)+ })+) => {
        $(static $name: Patterns = LazyLock::new(|| compiled(&[$(($label, $pattern),)+]));)+

        #[cfg(test)]
        const COUNTS: &[(&Patterns, usize)] = &[$((&$name, [$($label),+].len()),)+];
    };
}

patterns! {
    PRIVATE_KEYS = {
        // Something that reads as a key follows: the line alone stands in many a manual.
        "pem": r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s:,.()\\-]{64}",
    }
    AWS_KEYS = {
        "access key id": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
        "secret access key": r#"(?i)aws_?secret_?(?:access_?)?key["']?\s{0,4}[:=]\s{0,4}["']?[A-Za-z0-9/+]{40}\b"#,
    }
    GITHUB_TOKENS = {
        "token": r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b",
        "fine-grained token": r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b",
    }
    SERVICE_TOKENS = {
        "gitlab": r"\bgl(?:pat|dt|rt|ptt)-[A-Za-z0-9_-]{20,64}",
        "slack": r"\bxox[abeprs]-[0-9A-Za-z]{8,14}-[0-9A-Za-z-]{10,80}",
        "stripe": r"\b[sr]k_live_[0-9A-Za-z]{24,100}\b",
        "google": r"\bGOCSPX-[A-Za-z0-9_-]{28}\b",
        "npm": r"\bnpm_[A-Za-z0-9]{36}\b",
        "sendgrid": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    }
    JWT = {
        "jwt": r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{20,1000}",
    }
    STACK_TRACES = {
        "java": r"\sat (?:[A-Za-z_$][\w$]{0,80}\.){2,20}[\w$<>]{1,80}\([\w$]{1,80}\.(?:java|kt|scala|groovy):\d+\)",
        "python": r#"Traceback \(most recent call last\):\s{1,12}File (?:"|&quot;|&#34;)[^\n]{1,300}?(?:"|&quot;|&#34;), line \d+"#,
        "php": r"(?:Fatal error|Parse error|Warning|Notice|Deprecated)(?:</b>)?: [^\n]{1,400}? in (?:<b>)?[^\s<]{1,300}\.php(?:</b>)?(?: on line (?:<b>)?|:)\d+",
        "dotnet": r"\sat (?:[\w`<>\[\]]{1,80}\.){1,20}[\w`<>.]{1,80}\([^()\n]{0,200}\) in [^\n]{1,260}:line \d+",
        "node": r"Error: [^\n]{0,300}\n {2,8}at [^\n]{1,300}:\d+:\d+\)?",
        "go": r"goroutine \d+ \[[a-z ]{3,40}\]:\n",
        "ruby": r"[\w/.-]{1,200}\.rb:\d+:in [`'][^'\n]{1,120}'",
    }
    SQL_ERRORS = {
        "mysql": r"You have an error in your SQL syntax; check the manual that corresponds to your (?:MySQL|MariaDB)|SQLSTATE\[[0-9A-Z]{5}\](?::| \[)",
        "postgresql": r#"ERROR:\s{1,4}(?:syntax error at or near "|unterminated quoted string at or near|(?:relation|column) "[^"\n]{1,100}" does not exist)|org\.postgresql\.util\.PSQLException"#,
        "sql server": r"Unclosed quotation mark after the character string|Incorrect syntax near '|SqlClient\.SqlException|\[SQL Server\]",
        "oracle": r"\bORA-\d{5}: ",
        "sqlite": r#"\bSQLITE_ERROR\b|sqlite3\.OperationalError: |near "[^"\n]{1,60}": syntax error|SQLite3::SQLException"#,
        "db2": r"DB2 SQL [Ee]rror: SQLCODE|\[IBM\]\[CLI Driver\]",
    }
}

#[cfg(test)]
mod tests;
