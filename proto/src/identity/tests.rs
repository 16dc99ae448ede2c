//! What is an identity and what only looks like one.

use super::*;

#[test]
fn a_workloads_id_names_its_namespace_and_service_account() {
    let id = SpiffeId::workload(&"cluster.local".parse().unwrap(), "shop", "web").unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web")));
    assert_eq!(id.trust_domain().as_str(), "cluster.local");
    let other: SpiffeId = "spiffe://d/ns/shop/sa/web/more".parse().unwrap();
    assert_eq!(other.namespace(), None);
}

#[test]
fn what_the_standard_refuses_is_refused() {
    let long = format!("spiffe://d/{}", "a".repeat(2048));
    let wide = format!("spiffe://{}/a", "d".repeat(256));
    let cases = [
        "",
        "spiffe://",
        "spiffe:///a",
        "spiffe://d",
        "spiffe://d/",
        "spiffe://d/a/",
        "spiffe://d//a",
        "spiffe://D/a",
        "Spiffe://d/a",
        "https://d/a",
        "spiffe://d/a%20b",
        "spiffe://d/./a",
        "spiffe://d/../a",
        "spiffe://d:80/a",
        "spiffe://u@d/a",
        "spiffe://d/a?b",
        "spiffe://d/a#b",
        "spiffe://d/ä",
        "spiffe://d/*",
        " spiffe://d/a",
        "spiffe://d/a\n",
        &long,
        &wide,
    ];
    for case in cases {
        assert!(case.parse::<SpiffeId>().is_err(), "{case:?}");
    }
    for case in ["", "A", "a b", "a/b", "ä", "a:1"] {
        assert!(case.parse::<TrustDomain>().is_err(), "{case:?}");
    }
}

#[test]
fn a_name_that_would_change_the_path_is_refused() {
    let domain: TrustDomain = "d".parse().unwrap();
    for name in ["", "a/b", "..", "a%2fb"] {
        assert!(SpiffeId::workload(&domain, name, "web").is_err(), "{name:?}");
        assert!(SpiffeId::workload(&domain, "shop", name).is_err(), "{name:?}");
    }
}
