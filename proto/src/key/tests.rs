//! Keys as text and back.

use super::*;

fn service() -> ServiceName {
    ServiceName { namespace: "shop".into(), name: "orders".into() }
}

#[test]
fn every_kind_of_key_comes_back_from_its_name() {
    let keys = [
        Key::Destination("10.1.2.3:80".parse().unwrap()),
        Key::Destination("[fd00::1]:443".parse().unwrap()),
        Key::Outbound { service: service(), view: DEFAULT_VIEW.into() },
        Key::Endpoints { target: ServicePort { service: service(), port: 80 }, bucket: 3 },
        Key::Inbound("3f1c".into()),
        Key::TrustBundle,
        Key::ProxyConfig,
        Key::EgressIndex,
        Key::Share,
    ];
    for key in &keys {
        assert_eq!(Key::parse(key.kind() as i32, &key.name()).as_ref(), Ok(key));
    }
    assert_eq!(keys[3].name(), "shop/orders:80/3");
    assert_eq!(keys[2].name(), "shop/orders@default");
}

#[test]
fn a_name_that_is_not_canonical_is_no_key() {
    let cases = [
        (0, ""),
        (9, "mesh"),
        (1, "10.1.2.3"),
        (1, "[::1]:080"),
        (1, "[0:0::1]:80"),
        (2, "orders@default"),
        (2, "shop/orders"),
        (2, "shop/or/ders@default"),
        (2, "shop/orders@"),
        (3, "shop/orders:80"),
        (3, "shop/orders:080/0"),
        (3, "shop/orders:80/-1"),
        (3, "shop/orders:99999/0"),
        (4, ""),
        (4, "a b"),
        (5, "other"),
    ];
    for (kind, name) in cases {
        assert!(Key::parse(kind, name).is_err(), "{kind} {name:?}");
    }
}
