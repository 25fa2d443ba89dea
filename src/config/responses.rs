//! `responses:`: what must not leave in a response, and how answers of the service are written.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;

/// `responses:`: rules over the bodies of upstream responses, CSP reports, and the form of refusals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResponsesConfig {
    /// What must not leave in a response body. Needs ext_proc; a route may have rules of its own.
    pub rules: Vec<ResponseRule>,
    /// Bytes of a response body that the rules look at, counted after decompression.
    #[schemars(range(min = 1024, max = 10_485_760))]
    pub max_inspect_bytes: u32,
    /// How bodies of refusals are written.
    pub bodies: BodyForm,
    /// Paths on which browsers' reports of CSP violations are taken: answered 204, logged, never sent upstream.
    #[schemars(with = "Vec<formats::Path>")]
    pub csp_report_paths: BTreeSet<String>,
    /// Largest report, in bytes; a larger one is refused with 413.
    #[schemars(range(min = 256, max = 262_144))]
    pub csp_report_max_bytes: u32,
}

impl Default for ResponsesConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            max_inspect_bytes: 262_144,
            bodies: BodyForm::Plain,
            csp_report_paths: BTreeSet::new(),
            csp_report_max_bytes: 65_536,
        }
    }
}

/// How bodies of refusals are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyForm {
    /// Plain text, as guard-core does.
    #[default]
    Plain,
    /// HTML, JSON (RFC 9457) or plain text, whichever the client's Accept header prefers; plain text without one.
    Negotiated,
}

/// One rule over response bodies.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseRule {
    /// Unique name: in events, log lines and metadata.
    #[schemars(with = "formats::LimitName")]
    pub name: String,
    /// What is looked for.
    #[schemars(length(min = 1))]
    pub find: BTreeSet<Leak>,
    /// What happens to the response.
    #[serde(default)]
    pub action: LeakAction,
    /// Media types that are looked at: whole (`application/json`), by type (`text/*`) or by suffix (`*+json`). A
    /// response without a Content-Type is looked at too.
    #[serde(default = "readable")]
    pub content_types: Vec<String>,
    /// Status of the answer in place of a blocked response, 500 to 599.
    #[serde(default = "failure")]
    #[schemars(range(min = 500, max = 599))]
    pub status: u16,
    /// Body of that answer.
    #[serde(default = "failure_text")]
    pub body: String,
}

/// What may leak.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Leak {
    /// Payment card numbers: a known issuer's prefix, its length, and a valid check digit.
    CardNumbers,
    /// Private keys in PEM.
    PrivateKeys,
    /// Access keys of AWS.
    AwsKeys,
    /// Tokens of GitHub.
    GithubTokens,
    /// Tokens of GitLab, Slack, Stripe, npm and SendGrid, client secrets of Google.
    ServiceTokens,
    /// Signed JSON Web Tokens. Sign-in pages send them on purpose.
    Jwt,
    /// Stack traces of Java, Python, PHP, .NET, Node, Go and Ruby.
    StackTraces,
    /// Error messages of MySQL, PostgreSQL, SQL Server, Oracle, SQLite and DB2.
    SqlErrors,
}

impl Leak {
    /// The name users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CardNumbers => "card_numbers",
            Self::PrivateKeys => "private_keys",
            Self::AwsKeys => "aws_keys",
            Self::GithubTokens => "github_tokens",
            Self::ServiceTokens => "service_tokens",
            Self::Jwt => "jwt",
            Self::StackTraces => "stack_traces",
            Self::SqlErrors => "sql_errors",
        }
    }
}

/// What happens to a response that leaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeakAction {
    /// It goes on, and the leak is reported.
    #[default]
    Log,
    /// The client gets an error in its place; when part of it has been sent already, the connection is reset.
    Block,
}

fn readable() -> Vec<String> {
    ["text/*", "application/json", "application/xml", "application/javascript", "*+json", "*+xml"]
        .map(str::to_owned)
        .to_vec()
}

const fn failure() -> u16 {
    500
}

fn failure_text() -> String {
    "Response withheld".to_owned()
}
