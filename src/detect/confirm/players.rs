//! Frames that people paste: the players and maps whose pages nobody else can write.

use crate::detect::confirm::scan::{has, part};

/// Host and start of the path, in lower case. Only what serves one fixed page to everybody belongs here: whoever could
/// put script there owns the site already.
const PLAYERS: &[&[u8]] = &[
    b"www.youtube.com/embed/",
    b"youtube.com/embed/",
    b"www.youtube-nocookie.com/embed/",
    b"player.vimeo.com/video/",
    b"www.dailymotion.com/embed/video/",
    b"player.twitch.tv/?",
    b"clips.twitch.tv/embed?",
    b"w.soundcloud.com/player/",
    b"open.spotify.com/embed/",
    b"embed.podcasts.apple.com/",
    b"bandcamp.com/embeddedplayer/",
    b"www.google.com/maps/embed",
    b"maps.google.com/maps?",
    b"www.openstreetmap.org/export/embed.html?",
    b"cdn.embedly.com/widgets/media.html?",
    b"www.facebook.com/plugins/video.php?",
    b"fast.wistia.net/embed/iframe/",
    b"www.loom.com/embed/",
    b"giphy.com/embed/",
];

/// True for the address of a known player.
pub(super) fn plays(address: &[u8]) -> bool {
    let scheme = [&b"https://"[..], b"http://", b"//"].into_iter().find(|scheme| has(address, 0, scheme));
    let rest = scheme.map(|scheme| part(address, scheme.len(), address.len()));
    rest.is_some_and(|rest| PLAYERS.iter().any(|player| has(rest, 0, player)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_is_its_host_and_the_start_of_its_path() {
        for (address, expected) in [
            ("https://www.youtube.com/embed/26cNHSilikI?start=494", true),
            ("//player.vimeo.com/video/1", true),
            ("HTTPS://WWW.YOUTUBE.COM/embed/x", true),
            ("https://www.youtube.com.example/embed/x", false),
            ("https://www.youtube.com@evil.example/embed/x", false),
            ("https://www.youtube.com\\@evil.example/embed/", false),
            ("https://www.youtube.com/redirect?q=x", false),
            ("javascript://www.youtube.com/embed/%0arun()", false),
            ("www.youtube.com/embed/x", false),
            ("", false),
        ] {
            assert_eq!(plays(address.as_bytes()), expected, "{address}");
        }
    }
}
