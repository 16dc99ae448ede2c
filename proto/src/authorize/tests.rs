//! Who is let in.

mod any;

use super::*;
use crate::policy::SpiffeMatch;
use crate::request::Headers;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn rule(origin: &str, sources: Option<Vec<Source>>, methods: &[&str], paths: &[&str]) -> AccessRule {
    let list = |texts: &[&str]| texts.iter().map(|t| Arc::from(*t)).collect();
    AccessRule { origin: origin.into(), sources, methods: list(methods), paths: list(paths) }
}

fn web() -> Vec<Source> {
    vec![Source { spiffe: vec![SpiffeMatch::Exact(id("spiffe://d/ns/shop/sa/web"))], ..Source::default() }]
}

/// `who`: a SPIFFE id, or nothing for plaintext. `what`: `METHOD /path`, or nothing for a connection of bytes.
fn check(access: &Access, who: &str, what: &str) -> Result<usize, Option<String>> {
    let identity = (!who.is_empty()).then(|| id(who));
    let peer = Peer { identity: identity.as_ref(), ip: "10.0.0.9".parse().unwrap() };
    let headers = Headers::new();
    let view = what.split_once(' ').map(|(method, path)| RequestView {
        method,
        authority: "a",
        path,
        query: None,
        headers: &headers,
    });
    authorize(access, &peer, view.as_ref()).map(|p| p.audited()).map_err(|d| d.origin.map(|o| o.to_string()))
}

const WEB: &str = "spiffe://d/ns/shop/sa/web";
const OTHER: &str = "spiffe://d/ns/other/sa/web";

#[test]
fn with_no_policy_the_default_decides() {
    assert_eq!(check(&Access::default(), "", "GET /"), Ok(0));
    let strict = Access { default: DefaultAccess::Deny, ..Access::default() };
    assert_eq!(check(&strict, WEB, "GET /"), Err(None));
}

#[test]
fn an_allow_switches_its_port_to_deny_all_others() {
    let access = Access { allow: vec![rule("shop/a", Some(web()), &[], &[])], restricted: true, ..Access::default() };
    assert_eq!(check(&access, WEB, "GET /"), Ok(0));
    assert_eq!(check(&access, OTHER, "GET /"), Err(None));
    assert_eq!(check(&access, "", "GET /"), Err(None));
    let grants_nothing = Access { restricted: true, ..Access::default() };
    assert_eq!(check(&grants_nothing, WEB, "GET /"), Err(None));
}

#[test]
fn a_deny_wins_over_every_allow() {
    let access = Access {
        allow: vec![rule("shop/a", None, &[], &[])],
        deny: vec![rule("shop/d", Some(web()), &["DELETE"], &["/admin/*"])],
        restricted: true,
        ..Access::default()
    };
    assert_eq!(check(&access, WEB, "DELETE /admin/x"), Err(Some("shop/d".to_owned())));
    assert_eq!(check(&access, WEB, "GET /admin/x"), Ok(0));
    assert_eq!(check(&access, WEB, "DELETE /admin"), Ok(0));
    assert_eq!(check(&access, OTHER, "DELETE /admin/x"), Ok(0));
}

#[test]
fn on_bytes_an_allow_about_requests_is_nothing_and_a_deny_about_them_is_all() {
    let about = |origin: &str| rule(origin, Some(web()), &["GET"], &[]);
    let allow = Access { allow: vec![about("a")], restricted: true, ..Access::default() };
    assert_eq!(check(&allow, WEB, ""), Err(None));
    let deny = Access { deny: vec![about("d")], ..Access::default() };
    assert_eq!(check(&deny, WEB, ""), Err(Some("d".to_owned())));
    assert_eq!(check(&deny, OTHER, ""), Ok(0));
    assert!(has_layer7(&allow) && has_layer7(&deny) && !has_layer7(&Access::default()));
}

#[test]
fn sources_mean_what_they_say() {
    let source = |edit: fn(&mut Source)| {
        let mut source = Source::default();
        edit(&mut source);
        Access { allow: vec![rule("a", Some(vec![source]), &[], &[])], restricted: true, ..Access::default() }
    };
    let namespace = source(|s| s.namespaces = vec!["shop".into()]);
    assert!(check(&namespace, WEB, "GET /").is_ok() && check(&namespace, OTHER, "GET /").is_err());
    assert!(check(&namespace, "", "GET /").is_err(), "plaintext has no namespace");
    let cidr = source(|s| s.cidrs = vec!["10.0.0.0/24".parse().unwrap()]);
    assert!(check(&cidr, "", "GET /").is_ok());
    let both = source(|s| (s.cidrs, s.namespaces) = (vec!["10.1.0.0/24".parse().unwrap()], vec!["shop".into()]));
    assert!(check(&both, WEB, "GET /").is_err(), "all terms must hold");
    let prefix = source(|s| s.spiffe = vec![SpiffeMatch::Prefix("spiffe://d/ns/shop/*".into())]);
    assert!(check(&prefix, WEB, "GET /").is_ok() && check(&prefix, "spiffe://d/ns/shopping/sa/web", "GET /").is_err());
    assert!(check(&source(|_| ()), WEB, "GET /").is_err(), "a source without terms is nobody's");
    let nobody = Access { allow: vec![rule("a", Some(vec![]), &[], &[])], restricted: true, ..Access::default() };
    assert!(check(&nobody, WEB, "GET /").is_err(), "an empty list is nobody");
}

#[test]
fn audits_are_counted_and_change_nothing() {
    let audit = vec![rule("x", None, &["GET"], &[]), rule("y", Some(web()), &[], &[])];
    let access = Access { audit, ..Access::default() };
    assert_eq!(check(&access, WEB, "GET /"), Ok(2));
    assert_eq!(check(&access, OTHER, "PUT /"), Ok(0));
}

#[test]
fn a_mapped_address_is_the_address_it_maps() {
    let source = Source { cidrs: vec!["10.0.0.0/24".parse().unwrap()], ..Source::default() };
    let access = Access { allow: vec![rule("a", Some(vec![source]), &[], &[])], restricted: true, ..Access::default() };
    let peer = Peer { identity: None, ip: "::ffff:10.0.0.9".parse().unwrap() };
    assert!(authorize(&access, &peer, None).is_ok());
}

#[test]
fn a_path_that_servers_read_differently_is_no_way_around_a_rule() {
    let allow = Access { allow: vec![rule("a", None, &[], &["/public/*"])], restricted: true, ..Access::default() };
    let deny = Access { deny: vec![rule("d", None, &[], &["/admin*"])], ..Access::default() };
    for path in ["/public/x", "/public/a.b/..c/.d/e..", "/public/%20%C3%A9", "/public/a;b=c", "/public/"] {
        assert_eq!(check(&allow, WEB, &format!("GET {path}")), Ok(0), "{path}");
        assert_eq!(check(&deny, WEB, &format!("GET {path}")), Ok(0), "{path}");
    }
    for path in [
        "/public/../admin",
        "/public/..",
        "/public/./x",
        "/public/..;x/admin",
        "/public/%2e%2E/admin",
        "/public/%2fadmin",
        "/public/%5c..",
        "/public/%00",
        "/public/%zz",
        "/public/%",
        "/public\\..\\admin",
        "//admin",
        "/public//x",
        "/%61dmin",
    ] {
        assert_eq!(check(&allow, WEB, &format!("GET {path}")), Err(None), "{path}");
        assert_eq!(check(&deny, WEB, &format!("GET {path}")), Err(Some("d".to_owned())), "{path}");
    }
    assert_eq!(check(&Access::default(), WEB, "GET /a/../b//c"), Ok(0), "without rules about paths nothing changes");
}
