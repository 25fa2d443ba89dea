//! The checks, one file each. What is not configured is not there.

use smallvec::SmallVec;

use crate::engine::cx::{Cx, Objection};
use crate::engine::failure::CheckError;
use crate::engine::policy::Compiling;
use crate::engine::routes::RouteId;
use crate::model::check::Check;

pub(crate) mod authentication;
pub(crate) mod cloud_provider;
pub(crate) mod custom_request;
pub(crate) mod custom_validators;
pub(crate) mod emergency_mode;
pub(crate) mod https_enforcement;
pub(crate) mod ip_security;
pub(crate) mod rate_limit;
pub(crate) mod referrer;
pub(crate) mod request_size_content;
pub(crate) mod required_headers;
pub(crate) mod route_config;
pub(crate) mod suspicious_activity;
pub(crate) mod time_window;
pub(crate) mod user_agent;

/// What a check saw: nothing, something to refuse, or that it cannot tell.
pub(crate) type Seen<'p> = Result<Option<Objection<'p>>, CheckError>;

/// The compiled checks.
#[derive(Debug)]
pub(crate) struct Checks {
    present: u32,
    pub(crate) route_config: route_config::Settings,
    pub(crate) emergency_mode: Option<emergency_mode::Settings>,
    pub(crate) https_enforcement: Option<https_enforcement::Settings>,
    pub(crate) request_size_content: Option<request_size_content::Settings>,
    pub(crate) required_headers: Option<required_headers::Settings>,
    pub(crate) authentication: Option<authentication::Settings>,
    pub(crate) referrer: Option<referrer::Settings>,
    pub(crate) custom_validators: Option<custom_validators::Settings>,
    pub(crate) time_window: Option<time_window::Settings>,
    pub(crate) ip_security: ip_security::Settings,
    pub(crate) cloud_provider: Option<cloud_provider::Settings>,
    pub(crate) user_agent: Option<user_agent::Settings>,
    pub(crate) rate_limit: Option<rate_limit::Settings>,
    pub(crate) suspicious_activity: suspicious_activity::Settings,
    pub(crate) custom_request: Option<custom_request::Settings>,
}

impl Checks {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let mut checks = Self {
            present: 0,
            route_config: route_config::Settings::compile(compiling),
            emergency_mode: emergency_mode::Settings::compile(compiling),
            https_enforcement: https_enforcement::Settings::compile(compiling),
            request_size_content: request_size_content::Settings::compile(compiling),
            required_headers: required_headers::Settings::compile(compiling),
            authentication: authentication::Settings::compile(compiling),
            referrer: referrer::Settings::compile(compiling),
            custom_validators: custom_validators::Settings::compile(compiling),
            time_window: time_window::Settings::compile(compiling),
            ip_security: ip_security::Settings::compile(compiling),
            cloud_provider: cloud_provider::Settings::compile(compiling),
            user_agent: user_agent::Settings::compile(compiling),
            rate_limit: rate_limit::Settings::compile(compiling),
            suspicious_activity: suspicious_activity::Settings::compile(compiling),
            custom_request: custom_request::Settings::compile(compiling),
        };
        let logs_requests = compiling.config.security.log_request_level.is_some();
        checks.present = Check::ALL
            .iter()
            .filter(|check| checks.is_configured(**check, logs_requests))
            .fold(0, |present, check| present | bit(*check));
        checks
    }

    const fn is_configured(&self, check: Check, logs_requests: bool) -> bool {
        match check {
            Check::RouteConfig | Check::IpSecurity => true,
            Check::EmergencyMode => self.emergency_mode.is_some(),
            Check::HttpsEnforcement => self.https_enforcement.is_some(),
            Check::RequestLogging => logs_requests,
            Check::RequestSizeContent => self.request_size_content.is_some(),
            Check::RequiredHeaders => self.required_headers.is_some(),
            Check::Authentication => self.authentication.is_some(),
            Check::Referrer => self.referrer.is_some(),
            Check::CustomValidators => self.custom_validators.is_some(),
            Check::TimeWindow => self.time_window.is_some(),
            // Ranges are kept fresh by the shell; requests never wait for them.
            Check::CloudIpRefresh => self.cloud_provider.is_some(),
            Check::CloudProvider => self.cloud_provider.is_some(),
            Check::UserAgent => self.user_agent.is_some(),
            Check::RateLimit => self.rate_limit.is_some(),
            Check::SuspiciousActivity => self.suspicious_activity.is_needed,
            Check::CustomRequest => self.custom_request.is_some(),
        }
    }

    /// True when the configuration asks for the check.
    pub(crate) const fn has(&self, check: Check) -> bool {
        self.present & bit(check) != 0
    }

    /// What detection does on a route.
    pub(crate) fn inspection(&self, route: Option<RouteId>) -> &suspicious_activity::Inspection {
        self.suspicious_activity.by_route.of(route)
    }
}

const fn bit(check: Check) -> u32 {
    1 << check as u32
}

/// Verdicts of the checks between the ban lookup and the rate limits. They need no state, so they are found before
/// state is asked: then one question can hold the ban and the limits, and the limits only if nothing local refuses.
#[derive(Debug)]
pub(crate) struct Foreseen<'r> {
    pub(crate) ip: ip_security::Local,
    pub(crate) cloud: Option<cloud_provider::Hit>,
    pub(crate) user_agent: Option<user_agent::Hit>,
    pub(crate) tiers: SmallVec<[rate_limit::Tier<'r>; 4]>,
    pub(crate) rules: Result<rate_limit::rules::Applied, CheckError>,
}

impl Default for Foreseen<'_> {
    fn default() -> Self {
        Self {
            ip: ip_security::Local::default(),
            cloud: None,
            user_agent: None,
            tiers: SmallVec::new(),
            rules: Ok(SmallVec::new()),
        }
    }
}

impl Cx<'_, '_, '_> {
    /// Looks ahead. In passive mode nothing is refused, so everything is looked at.
    pub(crate) fn foresee(&mut self) {
        let passive = self.policy.passive;
        self.foreseen.ip = ip_security::look(self);
        // From here on the flags decide which checks are skipped; they are the ones that the address check will set.
        let flags = self.foreseen.ip.flags;
        self.flags = flags;
        if self.foreseen.ip.is_refused() && !passive {
            return;
        }
        if self.skips(Check::CloudProvider).is_none() {
            self.foreseen.cloud = cloud_provider::look(self);
        }
        if self.foreseen.cloud.is_some() && !passive {
            return;
        }
        if self.skips(Check::UserAgent).is_none() {
            self.foreseen.user_agent = user_agent::look(self);
        }
        if self.foreseen.user_agent.is_some() && !passive {
            return;
        }
        if self.skips(Check::RateLimit).is_none() {
            self.foreseen.tiers = rate_limit::look(self);
            self.foreseen.rules = rate_limit::look_at_rules(self);
        }
    }
}
