//! The case of HTTP/1 header names across an HTTP/2 hop, which only knows lower case. It must never change a name's letters,
//! only their case.

use leno_proto::request::Headers;

/// Appends `;c=` to the hop header's value where the names are not all as `Train-Case` would write them: `l` for all in
/// lower case, else the names that differ.
pub(super) fn write(value: &mut String, headers: &Headers) {
    let names = || headers.iter().map(|(name, _)| name);
    if names().all(|name| name == train(name)) {
        return;
    }
    if names().all(|name| !name.iter().any(u8::is_ascii_uppercase)) {
        value.push_str(";c=l");
        return;
    }
    let mut odd: Vec<&str> =
        names().filter(|name| *name != train(name)).filter_map(|name| std::str::from_utf8(name).ok()).collect();
    odd.sort_unstable();
    odd.dedup();
    // A head that needs more than this to say how it was written loses only its looks.
    if odd.iter().map(|name| name.len() + 1).sum::<usize>() <= NAMES_MAX {
        value.push_str(";c=");
        value.push_str(&odd.join(","));
    }
}

/// The other end. Call it for messages that began as HTTP/1 only; `names` empty means canonical.
pub(super) fn restore(headers: &mut Headers, names: &str) {
    if names == "l" {
        return;
    }
    let mut restored = Headers::new();
    for (name, value) in headers.iter() {
        let odd = names.split(',').find(|odd| odd.as_bytes().eq_ignore_ascii_case(name));
        match odd {
            Some(odd) => restored.push(odd.as_bytes(), value),
            None => restored.push(&train(name), value),
        }
    }
    *headers = restored;
}

/// `content-type` as `Content-Type`.
fn train(name: &[u8]) -> Vec<u8> {
    let mut start = true;
    name.iter()
        .map(|byte| {
            let cased = if start { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
            start = *byte == b'-';
            cased
        })
        .collect()
}

const NAMES_MAX: usize = 1024;
