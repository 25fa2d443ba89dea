//! The page on which Microsoft publishes where today's file with Azure's ranges is.

use std::time::Duration;

use crate::feeds::fetch::{Bounds, Found, Known, Location, fetch};
use crate::model::time::Timestamp;
use crate::net::client::{Client, Request, shown};

/// The page.
pub(super) const PAGE: &str = "https://www.microsoft.com/en-us/download/details.aspx?id=56519";
/// The only server whose links are followed from the page.
const DOWNLOADS: &str = "https://download.microsoft.com/";
/// The page is not shown to programs that say they are one.
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
/// Bytes of the page at most; it has about 250 KB.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Everything together, tries and pauses included.
const OVERALL: Duration = Duration::from_secs(20);
/// Tries of the download.
const TRIES: u32 = 3;
/// Pause between them.
const PAUSE: Duration = Duration::from_secs(2);
/// A file that is older than this is probably not today's.
const DAYS_MAX: i64 = 90;

/// Follows the page at `url` to the file. A mirror may also give the file itself under `url`.
pub(super) async fn follow(
    client: &Client,
    url: &str,
    (known, bounds): (&Known, Bounds),
    now: Timestamp,
) -> Result<Found, String> {
    let late = |_| format!("{}: took longer than {} s", shown(url), OVERALL.as_secs());
    tokio::time::timeout(OVERALL, steps(client, url, (known, bounds), now)).await.map_err(late)?
}

async fn steps(client: &Client, url: &str, (known, bounds): (&Known, Bounds), now: Timestamp) -> Result<Found, String> {
    let request = Request {
        headers: &[("user-agent", AGENT), ("accept", "text/html,application/json")],
        timeout: bounds.timeout,
        body_bytes_max: if url == PAGE { PAGE_BYTES_MAX } else { bounds.bytes_max },
        ..Request::get(url)
    };
    let problem = |error| format!("{}: {error}", shown(url));
    let page = client.send(&request).await.and_then(|answer| answer.success()).map_err(problem)?.body;
    if page.trim_ascii_start().starts_with(b"{") {
        return Ok(Found::New(page, Known::default()));
    }
    let page = String::from_utf8_lossy(&page);
    let link = link(&page, &[DOWNLOADS, &site(url)], today(now))
        .ok_or_else(|| format!("{}: names no file to download", shown(url)))?;
    if link.is_old {
        tracing::warn!(link = shown(&link.url), "the newest file with Azure's ranges is old or has no date");
    }
    if known.link.as_ref() == Some(&link.url) {
        return Ok(Found::Same);
    }
    let location = Location::Url(link.url.clone());
    // A redirect would lead away from the server that was chosen.
    let bounds = Bounds { redirects_max: 0, ..bounds };
    for attempt in 1.. {
        match fetch(Some(client), &location, None, (&Known::default(), bounds)).await {
            Ok(Found::New(bytes, _)) => {
                return Ok(Found::New(bytes, Known { link: Some(link.url), ..Known::default() }));
            }
            Ok(Found::Same) => break,
            Err(error) if attempt == TRIES => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Err(format!("{}: sent nothing", shown(&link.url)))
}

/// Scheme and server of a page that was configured: a mirror may hold the files too.
fn site(url: &str) -> String {
    if url == PAGE {
        return DOWNLOADS.to_owned();
    }
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    format!("{}/", url.get(..end).unwrap_or(url))
}

/// Days since the Unix epoch.
fn today(now: Timestamp) -> i64 {
    (now.0 / 86_400.0) as i64
}

#[derive(Debug, Eq, PartialEq)]
struct Link {
    url: String,
    is_old: bool,
}

/// The file that a page names: its link for when the download does not begin by itself, else the newest one by the date
/// in its name, else any JSON file.
fn link(page: &str, servers: &[&str], today: i64) -> Option<Link> {
    let anchors: Vec<(Option<String>, String)> = anchors(page)
        .filter(|(_, href)| servers.iter().any(|server| href.starts_with(server)) && is_json(href))
        .collect();
    if let Some((_, href)) = anchors.iter().find(|(id, _)| id.as_deref() == Some("failoverLink")) {
        return Some(Link { url: href.clone(), is_old: is_old(href, today) });
    }
    let dated = anchors.iter().filter_map(|(_, href)| Some((date(href).filter(|date| *date <= today)?, href)));
    if let Some((date, href)) = dated.max_by_key(|(date, _)| *date) {
        return Some(Link { url: href.clone(), is_old: DAYS_MAX < today - date });
    }
    let tagged = |(_, href): &&(Option<String>, String)| href.contains("ServiceTags");
    let (_, href) = anchors.iter().find(tagged).or_else(|| anchors.first())?;
    Some(Link { url: href.clone(), is_old: true })
}

fn is_json(href: &str) -> bool {
    href.split(['?', '#']).next().is_some_and(|path| path.ends_with(".json"))
}

fn is_old(href: &str, today: i64) -> bool {
    date(href).is_none_or(|date| DAYS_MAX < today - date)
}

/// Days since the Unix epoch of `ServiceTags_Public_YYYYMMDD`.
fn date(href: &str) -> Option<i64> {
    let digits = href.split("ServiceTags_Public_").nth(1)?.get(..8)?;
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i8>().ok();
    let year = digits.get(..4)?.parse().ok()?;
    let date = jiff::civil::Date::new(year, number(4..6)?, number(6..8)?).ok()?;
    let since = date.since((jiff::Unit::Day, jiff::civil::Date::new(1970, 1, 1).ok()?)).ok()?;
    Some(since.get_days().into())
}

/// `id` and `href` of every link of a page, entities undone.
fn anchors(page: &str) -> impl Iterator<Item = (Option<String>, String)> + '_ {
    page.split("<a").skip(1).filter(|rest| rest.starts_with(char::is_whitespace)).filter_map(|rest| {
        let tag = rest.split('>').next()?;
        Some((attribute(tag, "id"), attribute(tag, "href")?))
    })
}

/// A quoted attribute of a tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once('=') {
        let key = before.split_whitespace().next_back().unwrap_or_default();
        let after = after.trim_start();
        let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, next) = after.get(1..)?.split_once(quote)?;
        if key.eq_ignore_ascii_case(name) {
            return Some(htmlize::unescape_attribute(value).into_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_chosen_by_id_then_by_date() {
        let at = |name: &str| format!("https://download.microsoft.com/download/7/{name}");
        let anchor = |name: &str| format!("<a class='x' href=\"{}\">x</a>", at(name));
        let today = date("ServiceTags_Public_20261121").unwrap();
        assert_eq!(today, 20_778);
        let [new, old, future] =
            ["20261116", "20260601", "20261201"].map(|date| format!("ServiceTags_Public_{date}.json"));
        let failover = format!("<a id=\"failoverLink\" href=\"{}?a=1&amp;b=2\">", at(&old));
        let foreign = "<a href='https://evil.example/ServiceTags_Public_20261120.json'>".to_owned();
        let plain = "<a href='http://download.microsoft.com/ServiceTags_Public_20261120.json'>".to_owned();
        for (name, page, expected) in [
            ("the newest of several", anchor(&old) + &anchor(&new), Some((at(&new), false))),
            ("a date to come does not count", anchor(&new) + &anchor(&future), Some((at(&new), false))),
            ("the link for failures wins", anchor(&new) + &failover, Some((at(&old) + "?a=1&b=2", true))),
            ("another server", foreign, None),
            ("plain HTTP", plain, None),
            ("no date", anchor("ServiceTags.json"), Some((at("ServiceTags.json"), true))),
            ("any file", anchor("x.zip") + &anchor("y.json"), Some((at("y.json"), true))),
            ("nothing", "<p>sorry</p><abbr href='x'>".to_owned(), None),
            ("not closed", "<a href=\"https://download.microsoft.com/x.json".to_owned(), None),
        ] {
            let found = link(&page, &[DOWNLOADS], today).map(|link| (link.url, link.is_old));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_mirror_may_hold_the_files_too() {
        assert_eq!(site("https://mirror.example:8443/azure/page.html?x"), "https://mirror.example:8443/");
        assert_eq!(site(PAGE), DOWNLOADS);
    }
}
