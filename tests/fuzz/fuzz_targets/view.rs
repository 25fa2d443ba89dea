//! The decode chain: the glance that spares plain texts the chain agrees with it, what is decoded has nothing left to
//! decode, and no view outgrows its bound.
#![no_main]

use envoy_guard::config::exclusions::Profile;
use envoy_guard::detect::View;
use envoy_guard::detect::view::{Recipe, Views};
use libfuzzer_sys::fuzz_target;

const BOUNDS: [usize; 4] = [1024, 4096, 10_000, 262_144];
/// A named character reference may stand for more bytes than it has, and NFKC spells out what one sign stands for:
/// the longest is 18 characters of three bytes for one of three.
const GROWTH_MAX: usize = 24;

fuzz_target!(|data: &[u8]| {
    let [choice, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let recipe = Recipe {
        profile: if choice & 1 == 0 { Profile::Balanced } else { Profile::GuardCore },
        chars_max: BOUNDS[usize::from(choice >> 1 & 3)],
        keep_attacks: choice & 8 == 0,
        regions_max: 100,
    };
    let views = Views::new(text, &recipe);
    let slow = Views::in_full(text, &recipe);
    for view in View::ALL {
        assert_eq!(views.text(view), slow.text(view), "{view:?} of {text:?}");
        let bound = GROWTH_MAX * text.len() + 8 * recipe.chars_max;
        assert!(views.text(view).len() <= bound, "{view:?} has {} bytes", views.text(view).len());
    }
    let is_cut = [View::Raw, View::Decoded].iter().any(|view| recipe.chars_max <= views.text(*view).len());
    if is_cut || views.is_exhausted() {
        return;
    }
    if recipe.profile == Profile::Balanced {
        let again = Views::new(views.text(View::Decoded), &recipe);
        assert_eq!(again.text(View::Decoded), views.text(View::Decoded), "decoding goes on: {text:?}");
    }
});
