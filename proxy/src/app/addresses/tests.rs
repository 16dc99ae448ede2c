//! The kernel's tables.

use super::*;

#[test]
fn local_addresses_are_found_among_routes() {
    let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n     |-- 10.1.2.0\n        /24 link UNICAST\n     \
                |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
    assert_eq!(ipv4(trie), [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]);
    let table = "00000000000000000000000000000001 01 80 10 80       lo\nfd000000000000000000000000000007 02 40 00 80     eth0\n";
    assert_eq!(ipv6(table), [Ipv6Addr::LOCALHOST, "fd00::7".parse::<Ipv6Addr>().unwrap()]);
    assert!(ipv4("garbage\n|-- x\n/32 host LOCAL").is_empty() && ipv6("zz 01").is_empty());
}

#[test]
fn this_machine_has_its_loopback() {
    assert!(of_interfaces().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
}
