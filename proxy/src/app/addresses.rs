//! The addresses of this network namespace, read from the kernel's own tables: the pod's status names them too late. It must
//! never fail: what cannot be read is not there.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

#[cfg(test)]
mod tests;

pub(super) fn of_interfaces() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = ipv4(&read("/proc/net/fib_trie"));
    let v6 = ipv6(&read("/proc/net/if_inet6"));
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).collect()
}

/// A line `|-- ADDRESS` followed by one that says `/32 host LOCAL`.
fn ipv4(trie: &str) -> Vec<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The first word of a line: 32 hexadecimal digits.
fn ipv6(table: &str) -> Vec<Ipv6Addr> {
    let words = table.lines().filter_map(|line| line.split_whitespace().next());
    words.filter_map(|word| u128::from_str_radix(word, 16).ok()).map(Ipv6Addr::from_bits).collect()
}
