//! The checks by name. One name in metric, log field, event, `bypass` list and `muted_check_logs`.

use std::fmt;

macro_rules! names {
    ($(#[$about:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
        pub enum $kind { $($(#[$doc])* $variant,)+ }

        impl $kind {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name users see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The value called `name`.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}
pub(crate) use names;

names! {
    /// The pipeline, in its order: the order is the contract.
    Check {
        /// Resolves the route and the client.
        RouteConfig = "route_config",
        /// Lockdown.
        EmergencyMode = "emergency_mode",
        /// Redirects plain HTTP.
        HttpsEnforcement = "https_enforcement",
        /// Logs the request.
        RequestLogging = "request_logging",
        /// Declared size and media type.
        RequestSizeContent = "request_size_content",
        /// Headers a route demands.
        RequiredHeaders = "required_headers",
        /// Credentials.
        Authentication = "authentication",
        /// Referer host.
        Referrer = "referrer",
        /// CEL rules of the route.
        CustomValidators = "custom_validators",
        /// Hours of access.
        TimeWindow = "time_window",
        /// Keeps cloud ranges fresh; never denies.
        CloudIpRefresh = "cloud_ip_refresh",
        /// Bans, address lists, countries, global cloud selectors.
        IpSecurity = "ip_security",
        /// Cloud selectors of route or policy.
        CloudProvider = "cloud_provider",
        /// User-Agent patterns.
        UserAgent = "user_agent",
        /// Sliding windows.
        RateLimit = "rate_limit",
        /// Attack detection.
        SuspiciousActivity = "suspicious_activity",
        /// The policy's last word, in CEL.
        CustomRequest = "custom_request",
    }
}
