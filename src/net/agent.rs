//! What every request of guard-core's agent protocol says of itself, and where it goes.

/// The release of guard-agent whose protocol this is.
pub const AGENT_VERSION: &str = "3.2.4";

/// Where dynamic rules are asked for.
pub const RULES_PATH: &str = "/api/v1/rules";

/// Who asks.
#[derive(Clone, Eq, PartialEq)]
pub struct Identity {
    /// The server's address, with or without `/api/v1` at its end.
    pub endpoint: String,
    /// The key of the server. A secret.
    pub api_key: String,
    /// Names this installation.
    pub install_id: String,
    /// The project that it belongs to.
    pub project_id: Option<String>,
}

/// Without the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Identity {
    /// The URL of one of the protocol's paths.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let bare = self.endpoint.trim_end_matches('/');
        format!("{}{path}", bare.strip_suffix("/api/v1").unwrap_or(bare).trim_end_matches('/'))
    }

    /// The header fields that every request has.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("user-agent", format!("guard-agent/{AGENT_VERSION}")),
            ("content-type", "application/json".to_owned()),
            ("x-api-key", self.api_key.clone()),
            ("x-agent-install-id", self.install_id.clone()),
        ];
        headers.extend(self.project_id.clone().map(|project| ("x-project-id", project)));
        headers
    }
}

/// The id of this installation, kept where guard-agent keeps it (`~/.guard-agent/install-id`); one for this run when
/// nothing can be kept. Reads and writes a file.
#[must_use]
pub fn install_id() -> String {
    let fresh = uuid::Uuid::new_v4().to_string();
    let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) else { return fresh };
    let folder = std::path::PathBuf::from(home).join(".guard-agent");
    let file = folder.join("install-id");
    let kept = std::fs::read_to_string(&file).ok().and_then(|text| uuid::Uuid::parse_str(text.trim()).ok());
    if let Some(kept) = kept {
        return kept.to_string();
    }
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &fresh)) {
        tracing::debug!(%error, "the agent's installation id is not kept");
    }
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_may_be_written_in_several_ways() {
        for (endpoint, url) in [
            ("https://h", "https://h/api/v1/rules"),
            ("https://h/", "https://h/api/v1/rules"),
            ("https://h/api/v1", "https://h/api/v1/rules"),
            ("https://h/api/v1/", "https://h/api/v1/rules"),
            ("https://h/deep//", "https://h/deep/api/v1/rules"),
            ("https://h:8443/deep/api/v1", "https://h:8443/deep/api/v1/rules"),
        ] {
            let identity = Identity {
                endpoint: endpoint.to_owned(),
                api_key: "s3cret".to_owned(),
                install_id: "id".to_owned(),
                project_id: None,
            };
            assert_eq!(identity.url(RULES_PATH), url);
            assert!(!format!("{identity:?}").contains("s3cret"));
        }
    }
}
