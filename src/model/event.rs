//! Security events: guard-core's types and actions.

use std::fmt;

use crate::model::check::names;

names! {
    /// The 39 event types of guard-core 4.4.0.
    EventType {
        /// A detection hit.
        PenetrationAttempt = "penetration_attempt",
        /// Ban, list, country or global cloud denial.
        IpBlocked = "ip_blocked",
        /// A ban was written.
        IpBanned = "ip_banned",
        /// A ban could not be applied.
        IpBanFailed = "ip_ban_failed",
        /// A ban was lifted.
        IpUnbanned = "ip_unbanned",
        /// Cloud check denial.
        CloudBlocked = "cloud_blocked",
        /// Global HTTPS redirect.
        HttpsEnforced = "https_enforced",
        /// A route rule was violated.
        DecoratorViolation = "decorator_violation",
        /// A behaviour rule fired.
        BehavioralViolation = "behavioral_violation",
        /// A value was found hostile.
        PatternDetected = "pattern_detected",
        /// Dynamic rules were received.
        DynamicRuleUpdated = "dynamic_rule_updated",
        /// Dynamic rules were applied.
        DynamicRuleApplied = "dynamic_rule_applied",
        /// A rule-made limit was exceeded.
        DynamicRuleViolation = "dynamic_rule_violation",
        /// Lockdown began.
        EmergencyModeActivated = "emergency_mode_activated",
        /// Route access rule (decorator registry present).
        AccessDenied = "access_denied",
        /// Route authentication rule (decorator registry present).
        AuthenticationFailed = "authentication_failed",
        /// Size or media type.
        ContentFiltered = "content_filtered",
        /// Country helper.
        CountryBlocked = "country_blocked",
        /// CSP report.
        CspViolation = "csp_violation",
        /// Global CEL check.
        CustomRequestCheck = "custom_request_check",
        /// A value could not be decoded.
        DecodingError = "decoding_error",
        /// Refused by lockdown.
        EmergencyModeBlock = "emergency_mode_block",
        /// Geo database trouble.
        GeoLookupFailed = "geo_lookup_failed",
        /// Path on the exclusion list.
        PathExcluded = "path_excluded",
        /// Pattern added.
        PatternAdded = "pattern_added",
        /// Pattern removed.
        PatternRemoved = "pattern_removed",
        /// A limit was exceeded.
        RateLimited = "rate_limited",
        /// The limit script had to be loaded again.
        RateLimitScriptReloaded = "rate_limit_script_reloaded",
        /// Redis connection changed.
        RedisConnection = "redis_connection",
        /// Redis operation failed.
        RedisError = "redis_error",
        /// Strict route resolution failed.
        RouteUnresolved = "route_unresolved",
        /// A route bypasses everything.
        SecurityBypass = "security_bypass",
        /// Security headers were put on a response.
        SecurityHeadersApplied = "security_headers_applied",
        /// Global User-Agent rule.
        UserAgentBlocked = "user_agent_blocked",
        /// Spoofed forwarding header.
        SuspiciousRequest = "suspicious_request",
        /// A monitor callback failed.
        DetectionEngineCallbackError = "detection_engine_callback_error",
        /// Monitor: timeout.
        PatternAnomalyTimeout = "pattern_anomaly_timeout",
        /// Monitor: slow row.
        PatternAnomalySlowExecution = "pattern_anomaly_slow_execution",
        /// Monitor: statistical outlier.
        PatternAnomalyStatisticalAnomaly = "pattern_anomaly_statistical_anomaly",
    }
}
