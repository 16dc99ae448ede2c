//! Which rule a request takes.

mod any;

use crate::policy::Pattern;
use std::sync::Arc;

use super::*;
use crate::policy::Protocol;
use crate::policy::ServiceName;
use crate::policy::ServicePort;
use crate::request::Headers;
use crate::testing;

fn backend(name: &str, weight: u32) -> Backend {
    let service = ServiceName { namespace: "n".into(), name: name.into() };
    let target = ServicePort { service, port: 80 };
    Backend {
        target,
        weight,
        protocol: Protocol::Http1,
        filters: vec![],
        policy: Arc::new(testing::traffic()),
        resolved: true,
    }
}

fn rule(name: &str, matches: Vec<Match>) -> Rule {
    let policy = Arc::new(testing::traffic());
    Rule { name: name.into(), matches, filters: vec![], backends: vec![backend(name, 1)], policy }
}

fn port(routes: Vec<Route>) -> OutboundPort {
    let policy = Arc::new(testing::traffic());
    let backend = backend("own", 1);
    OutboundPort {
        port: 80,
        name: "http".into(),
        protocol: Protocol::Http1,
        routes,
        backend,
        policy,
        client_ip_affinity: None,
    }
}

fn route(rules: Vec<Rule>) -> Route {
    Route { kind: RouteKind::Http, origin: "n/r".into(), hostnames: vec![], rules }
}

fn exact(path: &str) -> Match {
    Match { path: Some(PathMatch::Exact(path.into())), ..Match::default() }
}

fn prefix(path: &str) -> Match {
    Match { path: Some(PathMatch::Prefix(path.into())), ..Match::default() }
}

fn regex(path: &str) -> Match {
    Match { path: Some(PathMatch::Regex(Pattern::new(path).unwrap())), ..Match::default() }
}

fn value(name: &str, value: &str) -> ValueMatch {
    ValueMatch { name: name.into(), value: StringMatch::Exact(value.into()) }
}

/// `request`: `METHOD /path?query`, then `name: value` lines. The name of the rule, `own`, or `404`.
fn check(port: &OutboundPort, request: &str, expected: &str) {
    let mut lines = request.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let mut headers = Headers::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.push(name.as_bytes(), value.as_bytes());
    }
    let view = RequestView { method, authority: "shop.example:80", path, query, headers: &headers };
    let name = match select(port, &view) {
        Selection::Own => "own".to_owned(),
        Selection::NoMatch => "404".to_owned(),
        Selection::Rule(selected) => selected.rule.name.to_string(),
    };
    assert_eq!(name, expected, "{request}");
}

#[test]
fn without_routes_all_goes_to_the_service_itself() {
    check(&port(vec![]), "GET /", "own");
    check(&port(vec![route(vec![rule("a", vec![exact("/a")])])]), "GET /b", "404");
    check(&port(vec![route(vec![rule("all", vec![])])]), "GET /b", "all");
}

#[test]
fn paths_match_by_element_and_the_closest_wins() {
    let rules = vec![
        rule("root", vec![prefix("/")]),
        rule("foo", vec![prefix("/foo")]),
        rule("foo-bar", vec![prefix("/foo/bar/")]),
        rule("exact", vec![exact("/foo/bar")]),
        rule("number", vec![regex("/v[0-9]+/x")]),
    ];
    let port = port(vec![route(rules)]);
    for (path, expected) in [
        ("/", "root"),
        ("/foo", "foo"),
        ("/foo/", "foo"),
        ("/foobar", "root"),
        ("/foo/bar", "exact"),
        ("/foo/bar/", "foo-bar"),
        ("/foo/bar/x", "foo-bar"),
        ("/FOO", "root"),
        ("/v12/x", "root"),
    ] {
        check(&port, &format!("GET {path}?a=/foo/bar"), expected);
    }
}

#[test]
fn a_pattern_must_match_the_whole_path() {
    let port = port(vec![route(vec![rule("v", vec![regex("/v[0-9]|/w")])])]);
    for (path, expected) in [("/v1", "v"), ("/v1/", "404"), ("/w", "v"), ("/a/v1", "404")] {
        check(
            &port,
            &format!("GET {}", path.trim_end_matches('\n')),
            if path.ends_with('\n') { "v" } else { expected },
        );
    }
    assert!(Pattern::new("(").is_err() && Pattern::new(&"(a{1000}){1000}".repeat(9)).is_err());
    assert_eq!(Pattern::new("a|b").unwrap().as_str(), "a|b");
}

#[test]
fn ties_go_to_the_method_then_more_headers_then_more_parameters_then_the_first() {
    let with = |edit: fn(&mut Match)| {
        let mut matched = prefix("/");
        edit(&mut matched);
        vec![matched]
    };
    let rules = vec![
        rule("query", with(|m| m.query = vec![value("a", "1")])),
        rule("headers", with(|m| m.headers = vec![value("x", "1"), value("y", "1")])),
        rule("header", with(|m| m.headers = vec![value("x", "1")])),
        rule("method", with(|m| m.method = Some("POST".into()))),
        rule("plain", with(|_| ())),
        rule("later", with(|_| ())),
    ];
    let port = port(vec![route(rules)]);
    check(&port, "GET /", "plain");
    check(&port, "GET /?a=1", "query");
    check(&port, "GET /?a=1\nX: 1", "header");
    check(&port, "GET /?a=1\nX: 1\ny: 1", "headers");
    check(&port, "POST /?a=1\nX: 1\ny: 1", "method");
}

#[test]
fn the_first_of_equal_routes_wins_and_a_later_closer_one_beats_it() {
    let routes = vec![
        route(vec![rule("old", vec![prefix("/a")])]),
        route(vec![rule("new", vec![prefix("/a")]), rule("close", vec![exact("/a/b")])]),
    ];
    let port = port(routes);
    check(&port, "GET /a", "old");
    check(&port, "GET /a/b", "close");
}

#[test]
fn parameters_are_decoded_and_the_first_of_a_name_counts() {
    let port = port(vec![route(vec![rule("q", vec![Match { query: vec![value("a b", "c/d")], ..Match::default() }])])]);
    check(&port, "GET /?a+b=c%2Fd", "q");
    check(&port, "GET /?a%20b=c/d&a+b=x", "q");
    check(&port, "GET /?a+b=x&a+b=c/d", "404");
    check(&port, "GET /?a+b=%FF", "404");
    check(&port, "GET /?a+b=c%2", "404");
}

#[test]
fn header_lines_of_one_name_match_joined_or_alone() {
    let port = port(vec![route(vec![rule("h", vec![Match { headers: vec![value("x", "a,b")], ..Match::default() }])])]);
    check(&port, "GET /\nX: a\nx: b", "h");
    check(&port, "GET /\nX: a,b", "h");
    check(&port, "GET /\nX: a", "404");
}

#[test]
fn hostnames_compare_without_case_and_port() {
    let hosts = ["shop.example", "*.wild.example"];
    for (authority, expected) in [
        ("SHOP.example", true),
        ("shop.example:8080", true),
        ("a.wild.example", true),
        ("a.b.wild.example", true),
        ("wild.example", false),
        ("xwild.example", false),
        ("other.example", false),
        ("", false),
    ] {
        assert_eq!(hosts_match(&hosts, authority), expected, "{authority}");
    }
    assert!(hosts_match::<&str>(&[], "anything"));
    assert!(hosts_match(&["[::1]"], "[::1]:80") && hosts_match(&["[::1]"], "[::1]"));
}

#[test]
fn backends_are_chosen_by_weight() {
    let backends = [backend("a", 9), backend("none", 0), backend("b", 1)];
    let mut counts = std::collections::BTreeMap::new();
    for step in 0..1000u64 {
        let chosen = choose(&backends, step * (u64::MAX / 1000) + u64::MAX / 2000).unwrap();
        *counts.entry(chosen.target.service.name.to_string()).or_insert(0) += 1;
    }
    assert_eq!(counts.get("a"), Some(&900));
    assert_eq!(counts.get("b"), Some(&100));
    assert_eq!(choose(&backends, u64::MAX).unwrap().target.service.name.as_ref(), "b");
    assert!(choose(&[backend("a", 0)], 0).is_none() && choose(&[], 0).is_none());
    assert!(choose(&[backend("a", 0), backend("b", 0)], u64::MAX).is_none());
}
