//! Any policy and any caller, judged by a second reading of the rules that knows nothing of the first one's.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NAMESPACES: [&str; 3] = ["shop", "other", "admin"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
/// The last two are ambiguous: servers read them differently.
const PATHS: [&str; 6] = ["/", "/admin", "/admin/x", "/a", "/x//admin", "/%2e"];
const PATTERNS: [&str; 5] = ["/", "/admin", "/admin/*", "/a*", "*"];
const ADDRESSES: [&str; 4] = ["10.0.0.9", "10.1.0.9", "::ffff:10.0.0.9", "2001:db8::1"];
const NETWORKS: [&str; 4] = ["10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"];

/// A caller: namespace and account where there was mTLS, and an address; then a request, or bytes.
type Call = (Option<(&'static str, &'static str)>, &'static str, Option<(&'static str, &'static str)>);

fn call() -> impl Strategy<Value = Call> {
    let identity = prop::option::weighted(0.8, (select(&NAMESPACES[..]), select(&["web", "db"][..])));
    let request = prop::option::weighted(0.8, (select(&METHODS[..]), select(&PATHS[..])));
    (identity, select(&ADDRESSES[..]), request)
}

fn few<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(select(of), 1..3)]
}

fn source() -> impl Strategy<Value = Source> {
    let exact = (select(&NAMESPACES[..]), select(&["web", "db"][..]))
        .prop_map(|(namespace, account)| format!("spiffe://d/ns/{namespace}/sa/{account}"));
    let prefix = select(&NAMESPACES[..]).prop_map(|namespace| format!("spiffe://d/ns/{namespace}/*"));
    let spiffe = prop::collection::vec(prop_oneof![exact, prefix], 0..2);
    (spiffe, few(&NAMESPACES), few(&NETWORKS)).prop_map(|(spiffe, namespaces, cidrs)| Source {
        spiffe: spiffe.iter().map(|text| SpiffeMatch::parse(text).unwrap()).collect(),
        namespaces: namespaces.into_iter().map(Arc::from).collect(),
        cidrs: cidrs.into_iter().map(|cidr| cidr.parse().unwrap()).collect(),
    })
}

fn any_rule() -> impl Strategy<Value = AccessRule> {
    let sources = prop::option::weighted(0.7, prop::collection::vec(source(), 0..3));
    (sources, few(&METHODS), few(&PATTERNS), select(&["n/a", "n/b", "n/c"][..]))
        .prop_map(|(sources, methods, paths, origin)| rule(origin, sources, &methods, &paths))
}

fn access() -> impl Strategy<Value = Access> {
    let rules = || prop::collection::vec(any_rule(), 0..4);
    let default = select(&[DefaultAccess::Allow, DefaultAccess::Deny][..]);
    (rules(), rules(), rules(), any::<bool>(), default).prop_map(|(deny, allow, audit, restricted, default)| Access {
        deny,
        allow,
        audit,
        restricted,
        default,
    })
}

fn judged(access: &Access, call: Call) -> Result<Permit, Denied> {
    let (who, address, what) = call;
    let identity = who.map(|(namespace, account)| id(&format!("spiffe://d/ns/{namespace}/sa/{account}")));
    let peer = Peer { identity: identity.as_ref(), ip: address.parse().unwrap() };
    let headers = Headers::new();
    let view = what.map(|(method, path)| RequestView { method, authority: "a", path, query: None, headers: &headers });
    authorize(access, &peer, view.as_ref())
}

/// The rules of CONTRACTS section 4, word for word.
mod oracle {
    use super::*;

    pub(super) fn allows(access: &Access, call: Call) -> bool {
        if access.deny.iter().any(|rule| applies(rule, call, true)) {
            return false;
        }
        let any_allow = access.allow.iter().any(|rule| applies(rule, call, false));
        if access.restricted { any_allow } else { access.default == DefaultAccess::Allow }
    }

    pub(super) fn applies(rule: &AccessRule, (who, address, what): Call, denies: bool) -> bool {
        let from = match &rule.sources {
            None => true,
            Some(sources) => sources.iter().any(|source| is_from(source, who, address)),
        };
        let has_layer7 = !rule.methods.is_empty() || !rule.paths.is_empty();
        let about = match what {
            // A Deny matches on its layer-4 part, an Allow with layer-7 terms does not match.
            None => denies || !has_layer7,
            Some((method, path)) => {
                let is_method = rule.methods.is_empty() || rule.methods.iter().any(|listed| **listed == *method);
                let is_ambiguous = path == "/x//admin" || path == "/%2e";
                let is_path = match rule.paths.is_empty() {
                    true => true,
                    false if is_ambiguous => denies,
                    false => rule.paths.iter().any(|pattern| fits(pattern, path)),
                };
                is_method && is_path
            }
        };
        from && about
    }

    fn fits(pattern: &str, path: &str) -> bool {
        match pattern.split_once('*') {
            Some((start, "")) => path.len() >= start.len() && path[..start.len()] == *start,
            _ => pattern == path,
        }
    }

    fn is_from(source: &Source, who: Option<(&str, &str)>, address: &str) -> bool {
        let mut terms = Vec::new();
        if !source.spiffe.is_empty() {
            terms.push(source.spiffe.iter().any(|matched| {
                who.is_some_and(|(namespace, account)| match matched {
                    SpiffeMatch::Exact(exact) => exact.as_str() == format!("spiffe://d/ns/{namespace}/sa/{account}"),
                    SpiffeMatch::Prefix(prefix) => **prefix == *format!("spiffe://d/ns/{namespace}/*"),
                })
            }));
        }
        if !source.namespaces.is_empty() {
            terms.push(who.is_some_and(|(namespace, _)| source.namespaces.iter().any(|listed| **listed == *namespace)));
        }
        if !source.cidrs.is_empty() {
            let inside = |network: &str| match address.trim_start_matches("::ffff:") {
                "10.0.0.9" => matches!(network, "10.0.0.0/16" | "10.0.0.0/8" | "0.0.0.0/0"),
                "10.1.0.9" => matches!(network, "10.0.0.0/8" | "0.0.0.0/0"),
                _ => network == "2001:db8::/32",
            };
            terms.push(source.cidrs.iter().any(|cidr| inside(&cidr.to_string())));
        }
        // Omitted: any; empty: none. A source that says nothing is nobody's.
        !terms.is_empty() && terms.iter().all(|holds| *holds)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn two_readings_of_the_rules_agree(access in access(), call in call()) {
        let judged = judged(&access, call);
        prop_assert_eq!(judged.is_ok(), oracle::allows(&access, call));
        if let Ok(permit) = judged {
            let audited = access.audit.iter().filter(|rule| oracle::applies(rule, call, false)).count();
            prop_assert_eq!(permit.audited(), audited);
        }
    }

    #[test]
    fn a_deny_only_takes_an_allow_only_gives_and_an_audit_does_neither(
        access in access(), more in any_rule(), call in call(),
    ) {
        let before = judged(&access, call).is_ok();
        let mut denied = access.clone();
        denied.deny.push(more.clone());
        prop_assert!(before || judged(&denied, call).is_err(), "a Deny let in");
        let mut allowed = access.clone();
        allowed.allow.push(more.clone());
        prop_assert!(!before || judged(&allowed, call).is_ok(), "an Allow kept out");
        let mut audited = access.clone();
        audited.audit.push(more);
        prop_assert_eq!(judged(&audited, call).is_ok(), before);
        // The first Allow policy of a port is what may keep others out.
        let restricted = Access { restricted: true, default: DefaultAccess::Deny, ..access };
        prop_assert!(judged(&restricted, call).is_err() || !restricted.allow.is_empty());
    }

    #[test]
    fn the_order_of_rules_does_not_matter(access in access(), call in call()) {
        let mut turned = access.clone();
        turned.deny.reverse();
        turned.allow.reverse();
        turned.audit.reverse();
        prop_assert_eq!(judged(&turned, call).is_ok(), judged(&access, call).is_ok());
    }

    #[test]
    fn what_may_be_said_in_requests_is_never_gained_by_saying_bytes(access in access(), call in call()) {
        let (who, address, _) = call;
        // Bytes pass only where any request at all would, ambiguous paths aside.
        if judged(&access, (who, address, None)).is_ok() {
            for method in METHODS {
                for path in &PATHS[..4] {
                    prop_assert!(judged(&access, (who, address, Some((method, path)))).is_ok());
                }
            }
        }
    }
}
