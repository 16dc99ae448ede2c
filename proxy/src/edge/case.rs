//! The case of HTTP/1 header names across an HTTP/2 hop, which only knows lower case. It must never change a name's letters,
//! only their case.

use leno_proto::request::Headers;

/// Appends `;c=` to the hop header's value where the names are not all as `Train-Case` would write them: `l` for all in
/// lower case, else the names that differ.
pub(super) fn write(value: &mut Vec<u8>, case: Case) {
    match case {
        Case::Train => {}
        Case::Lower => value.extend_from_slice(b";c=l"),
        Case::Odd(names) => {
            value.extend_from_slice(b";c=");
            value.extend_from_slice(names.as_bytes());
        }
    }
}

/// How the names of a head are written.
pub(super) enum Case {
    /// As HTTP/1 mostly does, and this proxy where nothing else is said.
    Train,
    Lower,
    /// These differ, separated by commas.
    Odd(String),
}

pub(super) fn of(headers: &Headers) -> Case {
    let names = || headers.iter().map(|(name, _)| name);
    if names().all(is_train) {
        return Case::Train;
    }
    if names().all(|name| !name.iter().any(u8::is_ascii_uppercase)) {
        return Case::Lower;
    }
    let mut odd: Vec<&str> =
        names().filter(|name| !is_train(name)).filter_map(|name| std::str::from_utf8(name).ok()).collect();
    odd.sort_unstable();
    odd.dedup();
    // A head that needs more than this to say how it was written loses only its looks.
    match odd.iter().map(|name| name.len() + 1).sum::<usize>() <= NAMES_MAX {
        true => Case::Odd(odd.join(",")),
        false => Case::Train,
    }
}

/// The other end. Call it for messages that began as HTTP/1 only; `names` empty means canonical.
pub(super) fn restore(headers: &mut Headers, names: &[u8]) {
    if names == b"l" {
        return;
    }
    let odd = |name: &[u8]| match names.is_empty() {
        true => None,
        false => names.split(|byte| *byte == b',').find(|odd| odd.eq_ignore_ascii_case(name)),
    };
    headers.change_case(|name| match odd(name) {
        Some(odd) => name.copy_from_slice(odd),
        None => {
            let mut start = true;
            for byte in name {
                *byte = train(*byte, start);
                start = *byte == b'-';
            }
        }
    });
}

fn is_train(name: &[u8]) -> bool {
    let mut start = true;
    name.iter().all(|byte| {
        let canonical = *byte == train(*byte, start);
        start = *byte == b'-';
        canonical
    })
}

/// `content-type` as `Content-Type`; `start`: of a word.
fn train(byte: u8, start: bool) -> u8 {
    if start { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
}

const NAMES_MAX: usize = 1024;
