//! Rules across `listeners:` and `admin:`.

use crate::config::Config;
use crate::config::check::Findings;
use crate::config::errors::Class;
use crate::config::rules::conflict;
use crate::config::tls::ServerTls;

/// Characters of an admin token at least: below that it can be guessed.
pub(crate) const TOKEN_MIN: usize = 16;

/// Checks where we listen and who may come in.
pub(super) fn apply(config: &Config, out: &mut Findings) {
    let (listeners, admin) = (&config.listeners, &config.admin);
    if listeners.grpc.is_none() && listeners.unix.is_none() {
        let fields = ["listeners.grpc", "listeners.unix"];
        conflict(&fields, "grpc and unix are both null, so Envoy finds us nowhere", out);
    }
    if listeners.grpc.is_some() && listeners.grpc == admin.address {
        conflict(&["admin.address", "listeners.grpc"], "is the address of listeners.grpc", out);
    }
    if listeners.unix.is_some() && listeners.unix == admin.unix {
        conflict(&["admin.unix", "listeners.unix"], "is the socket of listeners.unix", out);
    }
    tls("listeners.tls", listeners.tls.as_ref(), listeners.grpc.is_some(), out);
    tls("admin.tls", admin.tls.as_ref(), admin.address.is_some(), out);
    access(config, out);
}

fn tls(key: &str, tls: Option<&ServerTls>, is_used: bool, out: &mut Findings) {
    let Some(tls) = tls else { return };
    if !is_used {
        out.warn(key, "has no effect: there is no TCP address");
    }
    if !tls.client_names.is_empty() && tls.client_ca_file.is_none() {
        let names = format!("{key}.client_names");
        conflict(&[&names], "needs client_ca_file: nobody is asked for a certificate", out);
    }
}

fn access(config: &Config, out: &mut Findings) {
    let admin = &config.admin;
    if admin.token.is_some() && admin.token_file.is_some() {
        conflict(&["admin.token_file", "admin.token"], "excludes admin.token", out);
    }
    if admin.token.as_ref().is_some_and(|token| token.expose().chars().count() < TOKEN_MIN) {
        out.problem("admin.token", Class::Range, format!("needs at least {TOKEN_MIN} characters"));
    }
    let Some(address) = admin.address.filter(|address| !address.ip().is_loopback()) else { return };
    let has_token = admin.token.is_some() || admin.token_file.is_some();
    let knows_clients = admin.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    if !has_token && !knows_clients {
        let message = format!(
            "{address} is not loopback, and there is neither a token nor admin.tls.client_ca_file: only /healthz, /readyz \
             and /metrics answer there"
        );
        out.warn("admin.address", message);
    }
    if has_token && admin.tls.is_none() {
        out.warn("admin.address", "is not loopback and without admin.tls: the token can be read on the way");
    }
}
