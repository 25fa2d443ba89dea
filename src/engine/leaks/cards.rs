//! Payment card numbers: digits in one piece or in the groups that are printed on cards, with an issuer's prefix, its
//! length, and a valid check digit.

use crate::engine::leaks::Found;

/// Digits of the longest number.
const DIGITS_MAX: usize = 19;

/// The first number in `text`.
pub(super) fn find(text: &[u8]) -> Option<Found> {
    let mut at = 0;
    while let Some(start) = text.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
        let start = at + start;
        let run = Run::read(text.get(start..).unwrap_or_default());
        let before = start.checked_sub(1).and_then(|before| text.get(before)).copied();
        let after = text.get(start + run.bytes).copied();
        if !continues(before)
            && !continues(after)
            && let Some(label) = run.issuer()
        {
            let digits = run.digits();
            let last: String = digits.iter().rev().take(4).rev().map(|digit| char::from(b'0' + digit)).collect();
            return Some(Found { label, at: start, sample: format!("…{last} ({} digits)", digits.len()) });
        }
        at = start + run.bytes.max(1);
    }
    None
}

/// True for a neighbour that makes the digits part of something else: an identifier, a decimal, a hash.
fn continues(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/' | b'%'))
}

/// Digits that stand together, with at most one separator between two groups.
struct Run {
    digits: [u8; DIGITS_MAX + 1],
    count: usize,
    /// Length of each group; at most five are told apart.
    groups: [usize; 5],
    group: usize,
    bytes: usize,
}

impl Run {
    fn read(text: &[u8]) -> Self {
        let mut run = Self { digits: [0; DIGITS_MAX + 1], count: 0, groups: [0; 5], group: 0, bytes: 0 };
        let mut separator = None;
        let mut letters = text.iter().copied().enumerate().peekable();
        while let Some((at, byte)) = letters.next() {
            let follows_digit = letters.peek().is_some_and(|(_, next)| next.is_ascii_digit());
            match byte {
                b'0'..=b'9' => {
                    if let Some(place) = run.digits.get_mut(run.count) {
                        *place = byte - b'0';
                    }
                    run.count = (run.count + 1).min(DIGITS_MAX + 1);
                    if let Some(length) = run.groups.get_mut(run.group) {
                        *length += 1;
                    }
                    run.bytes = at + 1;
                }
                b' ' | b'-' if follows_digit && separator.is_none_or(|own| own == byte) => {
                    separator = Some(byte);
                    run.group += 1;
                }
                _ => break,
            }
        }
        run
    }

    fn digits(&self) -> &[u8] {
        self.digits.get(..self.count).unwrap_or_default()
    }

    /// Who issued the number, when it is one.
    fn issuer(&self) -> Option<&'static str> {
        let groups = self.groups.get(..=self.group)?;
        let prefix =
            |length: usize| self.digits().iter().take(length).fold(0_u32, |all, digit| all * 10 + u32::from(*digit));
        let label = match (self.count, prefix(2), prefix(3), prefix(4)) {
            (16 | 19, 40..=49, ..) => "visa",
            (16, 51..=55, ..) | (16, _, _, 2221..=2720) => "mastercard",
            (15, 34 | 37, ..) => "american express",
            (16, 65, ..) | (16, _, 644..=649, _) | (16, _, _, 6011) => "discover",
            (16, _, _, 3528..=3589) => "jcb",
            (14, 36 | 38 | 39, ..) | (14, _, 300..=305, _) => "diners club",
            (16..=19, 62, ..) => "unionpay",
            _ => return None,
        };
        let is_printed = matches!(groups, [_] | [4, 4, 4, 4] | [4, 4, 4, 4, 3] | [4, 6, 5] | [4, 6, 4] | [6, 13]);
        (is_printed && self.is_valid() && !self.is_monotonous()).then_some(label)
    }

    /// The check digit of Luhn.
    fn is_valid(&self) -> bool {
        let sum: u32 = self
            .digits()
            .iter()
            .rev()
            .enumerate()
            .map(|(place, digit)| {
                let value = u32::from(*digit) << (place % 2);
                if 9 < value { value - 9 } else { value }
            })
            .sum();
        sum.is_multiple_of(10)
    }

    /// Few different digits: a placeholder.
    fn is_monotonous(&self) -> bool {
        let mut seen = 0_u16;
        self.digits().iter().for_each(|digit| seen |= 1 << digit);
        seen.count_ones() < 2
    }
}
