//! Chains that were verified, so that a peer that comes again costs no second proof of its certificate. It must never hold a
//! chain beyond the certificates' own time, nor answer for other bytes, another use or other anchors than those verified.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::pki_types::UnixTime;

use crate::tls::verify::Chain;
use crate::tls::verify::Usage;

/// Of one set of anchors: it goes with them. What proves that the peer holds the key is each handshake's own.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<Digest, Window>>);

type Digest = [u8; 32];

/// Unix seconds, both included (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: u64,
    until: u64,
}

/// More peers than a pod has at a time; then they begin anew.
const MOST: usize = 1024;

impl Known {
    pub(super) fn holds(&self, chain: Chain<'_>, usage: Usage, now: UnixTime) -> bool {
        let window = self.0.lock().get(&digest_of(chain, usage)).copied();
        window.is_some_and(|window| (window.from..=window.until).contains(&now.as_secs()))
    }

    /// The chain has just been verified. One whose time cannot be read is verified each time.
    pub(super) fn add(&self, chain: Chain<'_>, usage: Usage) {
        let certificates = std::iter::once(chain.leaf).chain(chain.intermediates);
        let whole = Window { from: 0, until: u64::MAX };
        let Some(window) = certificates.map(|der| validity(der)).try_fold(whole, |all, one| {
            let one = one?;
            Some(Window { from: all.from.max(one.from), until: all.until.min(one.until) })
        }) else {
            return;
        };
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(digest_of(chain, usage), window);
    }
}

fn digest_of(chain: Chain<'_>, usage: Usage) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[usage as u8]);
    for der in std::iter::once(chain.leaf).chain(chain.intermediates) {
        // Each begins with its own length (X.690 section 8.1): no two lists have the same bytes.
        context.update(der);
    }
    let mut out = Digest::default();
    out.copy_from_slice(context.finish().as_ref());
    out
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// A certificate's own time (RFC 5280 section 4.1).
fn validity(certificate: &[u8]) -> Option<Window> {
    let mut body = Der(Der(Der(certificate).take(SEQUENCE)?).take(SEQUENCE)?);
    // Version, serial number, signature, issuer.
    let _ = body.take(VERSION);
    body.take(INTEGER)?;
    body.take(SEQUENCE)?;
    body.take(SEQUENCE)?;
    let mut times = Der(body.take(SEQUENCE)?);
    Some(Window { from: times.time()?, until: times.time()? })
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let [found, first, rest @ ..] = self.0 else { return None };
        let count = usize::from(first & 0x7f);
        let (length, rest) = match first & 0x80 {
            0 => (count, rest),
            _ if count > 3 => return None,
            _ => {
                let (bytes, rest) = rest.split_at_checked(count)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
        };
        if *found != tag {
            return None;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn time(&mut self) -> Option<u64> {
        if let Some(text) = self.take(UTC_TIME) {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            return unix(if year < 50 { 2000 + year } else { 1900 + year }, rest);
        }
        let (year, rest) = self.take(GENERALIZED_TIME)?.split_at_checked(4)?;
        unix(number(year)?, rest)
    }
}

/// `MMDDhhmmssZ` of a year.
fn unix(year: u64, rest: &[u8]) -> Option<u64> {
    let [fields @ .., b'Z'] = rest else { return None };
    if fields.len() != 10 || year < 1970 {
        return None;
    }
    let field = |at: usize, range: std::ops::RangeInclusive<u64>| {
        number(&fields[2 * at..2 * at + 2]).filter(|value| range.contains(value))
    };
    let (month, day) = (field(0, 1..=12)?, field(1, 1..=31)?);
    let (hour, minute, second) = (field(2, 0..=23)?, field(3, 0..=59)?, field(4, 0..=59)?);
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    // From 1 March of the year 0 to 1970.
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}
