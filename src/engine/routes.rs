//! Which route a request takes: chosen by name, else the first match in the table.

use hashbrown::HashMap;
use regex::Regex;

use crate::config::routes::RouteMatch;
use crate::engine::policy::Compiling;
use crate::request::Request;
use crate::request::path::{is_below, normalise};

type Index = HashMap<Box<str>, Vec<Rule>, foldhash::fast::RandomState>;

/// A route, by its position in the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct RouteId(u16);

impl RouteId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the table says about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resolved {
    /// The route, if any.
    pub(crate) route: Option<RouteId>,
    /// The request names a route that does not exist, or the table has routes and none matches.
    pub(crate) unresolved: bool,
}

/// All matchers, indexed so that hundreds of routes cost no more than a few.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    names: Vec<String>,
    by_name: HashMap<Box<str>, RouteId, foldhash::fast::RandomState>,
    /// Whole paths.
    exact: Index,
    /// Prefixes and templates whose first segment is fixed, by that segment.
    by_segment: Index,
    /// Everything else, in order.
    rest: Vec<Rule>,
}

/// One matcher of one route.
#[derive(Debug)]
struct Rule {
    route: RouteId,
    hosts: Vec<Host>,
    methods: Vec<Box<str>>,
    path: PathRule,
}

#[derive(Debug)]
enum Host {
    Exact(Box<str>),
    /// `.example.com`: any name that ends with it and is longer.
    Below(Box<str>),
}

#[derive(Debug)]
enum PathRule {
    Any,
    Exact,
    Prefix(Box<str>),
    Template(Vec<Piece>),
    Regex(Regex),
}

#[derive(Debug, Eq, PartialEq)]
enum Piece {
    Fixed(Box<str>),
    One,
    Rest,
}

impl Routes {
    /// Compiles `routes:`. Positions are kept: the route at index `n` has id `n`.
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let mut routes = Self::default();
        for (index, route) in compiling.config.routes.iter().enumerate() {
            let Ok(id) = u16::try_from(index).map(RouteId) else {
                compiling.error("routes", "there are more than 65536 routes");
                break;
            };
            routes.names.push(route.name.clone());
            if route.name.is_empty() {
                compiling.error(format!("routes[{index}].name"), "a route needs a name");
            } else if routes.by_name.insert(route.name.as_str().into(), id).is_some() {
                compiling.error(format!("routes[{index}].name"), format!("`{}` is used twice", route.name));
            }
            for (position, matcher) in route.matches.iter().enumerate() {
                match rule(id, matcher) {
                    Ok((rule, place)) => routes.place(rule, place),
                    Err((field, message)) => {
                        compiling.error(format!("routes[{index}].match[{position}].{field}"), message);
                    }
                }
            }
        }
        routes
    }

    fn place(&mut self, rule: Rule, place: Place) {
        match place {
            Place::Exact(path) => self.exact.entry(path).or_default().push(rule),
            Place::Segment(segment) => self.by_segment.entry(segment).or_default().push(rule),
            Place::Rest => self.rest.push(rule),
        }
    }

    /// The name of a route.
    pub(crate) fn name(&self, id: RouteId) -> Option<&str> {
        self.names.get(id.index()).map(String::as_str)
    }

    /// True when a route has this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Finds the route of a request whose path was normalised to `path`. A name that Envoy gives wins; when it names
    /// no route the request is unresolved, and the table still applies so that no protection is lost.
    pub(crate) fn resolve(&self, request: &Request<'_>, path: &str) -> Resolved {
        if let Some(route) = request.route.and_then(|name| self.by_name.get(name)) {
            return Resolved { route: Some(*route), unresolved: false };
        }
        let route = self.find(request, path);
        let is_misnamed = request.route.is_some();
        let is_unlisted = route.is_none() && !self.names.is_empty();
        Resolved { route, unresolved: is_misnamed || is_unlisted }
    }

    fn find(&self, request: &Request<'_>, path: &str) -> Option<RouteId> {
        if self.names.is_empty() {
            return None;
        }
        let host = without_port(request.host);
        let first = |rules: Option<&Vec<Rule>>| {
            rules?.iter().find(|rule| rule.covers(host, request.method, path)).map(|rule| rule.route)
        };
        let segment = path.get(1..).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        // Rules of one bucket stand in the order of the configuration, so the least id is the first match of all.
        [first(self.exact.get(path)), first(self.by_segment.get(segment)), first(Some(&self.rest))]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Rule {
    fn covers(&self, host: &str, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|own| **own == *method))
            && self.path.covers(path)
            && (self.hosts.is_empty() || self.hosts.iter().any(|own| own.covers(host)))
    }
}

impl Host {
    fn new(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some(suffix) => Self::Below(suffix.to_ascii_lowercase().into()),
            None => Self::Exact(text.to_ascii_lowercase().into()),
        }
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(own) => own.eq_ignore_ascii_case(host),
            Self::Below(suffix) => {
                let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
                host.len() > suffix.len()
                    && host.get(host.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

impl PathRule {
    fn covers(&self, path: &str) -> bool {
        match self {
            // An exact rule is only reached through its path.
            Self::Any | Self::Exact => true,
            Self::Prefix(root) => is_below(path, root),
            Self::Template(pieces) => fits(pieces, path),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

fn fits(pieces: &[Piece], path: &str) -> bool {
    let mut segments = path.split('/').skip(1).filter(|segment| !segment.is_empty());
    for piece in pieces {
        let segment = match piece {
            Piece::Rest => return true,
            Piece::Fixed(_) | Piece::One => segments.next(),
        };
        match (piece, segment) {
            (_, None) => return false,
            (Piece::Fixed(text), Some(segment)) if **text != *segment => return false,
            (Piece::Fixed(_) | Piece::One | Piece::Rest, Some(_)) => {}
        }
    }
    segments.next().is_none()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Where a rule is looked for.
enum Place {
    Exact(Box<str>),
    Segment(Box<str>),
    Rest,
}

type Refusal = (&'static str, String);

fn rule(route: RouteId, matcher: &RouteMatch) -> Result<(Rule, Place), Refusal> {
    let given = [&matcher.path, &matcher.prefix, &matcher.template, &matcher.regex];
    if 1 < given.iter().filter(|part| part.is_some()).count() {
        return Err(("path", "give only one of path, prefix, template and regex".to_owned()));
    }
    for host in &matcher.hosts {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.is_empty() || name.contains(['*', '/', ' ']) {
            return Err(("hosts", format!("`{host}` is neither a host name nor `*.` and a host name")));
        }
    }
    let (path, place) = path_rule(matcher)?;
    let hosts = matcher.hosts.iter().map(|host| Host::new(host)).collect();
    let methods = matcher.methods.iter().map(|method| method.to_ascii_uppercase().into()).collect();
    Ok((Rule { route, hosts, methods, path }, place))
}

fn path_rule(matcher: &RouteMatch) -> Result<(PathRule, Place), Refusal> {
    if let Some(path) = &matcher.path {
        return Ok((PathRule::Exact, Place::Exact(configured("path", path)?.into())));
    }
    if let Some(prefix) = &matcher.prefix {
        let root = configured("prefix", prefix)?;
        let place = match root.split('/').nth(1) {
            None | Some("") => Place::Rest,
            Some(segment) => Place::Segment(segment.into()),
        };
        return Ok((PathRule::Prefix(root.into()), place));
    }
    if let Some(template) = &matcher.template {
        let pieces = pieces(template).map_err(|message| ("template", message))?;
        let place = match pieces.first() {
            Some(Piece::Fixed(segment)) => Place::Segment(segment.clone()),
            Some(Piece::One | Piece::Rest) | None => Place::Rest,
        };
        return Ok((PathRule::Template(pieces), place));
    }
    if let Some(regex) = &matcher.regex {
        let regex = Regex::new(&format!("^(?:{regex})$")).map_err(|error| ("regex", error.to_string()))?;
        return Ok((PathRule::Regex(regex), Place::Rest));
    }
    Ok((PathRule::Any, Place::Rest))
}

fn configured(field: &'static str, path: &str) -> Result<String, Refusal> {
    let normal = normalise(path);
    if !path.starts_with('/') || !normal.is_sound {
        return Err((field, format!("`{path}` is not a path that begins with `/`")));
    }
    Ok(normal.path.into_owned())
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let Some(rest) = template.strip_prefix('/') else { return Err("a template begins with `/`".to_owned()) };
    let mut pieces = Vec::new();
    for segment in rest.split('/').filter(|segment| !segment.is_empty()) {
        if pieces.last() == Some(&Piece::Rest) {
            return Err("`{name...}` must be the last segment".to_owned());
        }
        pieces.push(match segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(name) if name.ends_with("...") => Piece::Rest,
            Some(name) if !name.is_empty() => Piece::One,
            None if !segment.contains(['{', '}']) => Piece::Fixed(segment.into()),
            _ => return Err(format!("`{segment}` is neither fixed text nor `{{name}}`")),
        });
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
