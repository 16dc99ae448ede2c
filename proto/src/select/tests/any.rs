//! Any routes and any request, judged by writing down all candidates and sorting them.

use proptest::prelude::*;
use proptest::sample::select as one_of;

use super::*;
use crate::policy::Pattern;

const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"];
const HOSTS: [&str; 3] = ["web.test", "a.web.test:8080", "other"];

type Asked = (&'static str, &'static str, &'static str, Vec<(&'static str, &'static str)>, &'static str);

fn asked() -> impl Strategy<Value = Asked> {
    let fields = prop::collection::vec((one_of(&["x", "y"][..]), one_of(&["1", "2"][..])), 0..3);
    let queries = one_of(&["", "x=1", "y=2&x=1", "x=2&x=1"][..]);
    (one_of(&["GET", "POST"][..]), one_of(&HOSTS[..]), one_of(&PATHS[..]), fields, queries)
}

fn any_match() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        one_of(&PATHS[..]).prop_map(|path| PathMatch::Exact(path.into())),
        one_of(&PATHS[..]).prop_map(|path| PathMatch::Prefix(path.into())),
        one_of(&["/a.*", "/.*"][..]).prop_map(|path| PathMatch::Regex(Pattern::new(path).unwrap())),
    ];
    let value = || {
        let matched =
            |(name, value): (&str, &str)| ValueMatch { name: name.into(), value: StringMatch::Exact(value.into()) };
        (one_of(&["x", "y"][..]), one_of(&["1", "2"][..])).prop_map(matched)
    };
    let values = || prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(value(), 1..3)];
    let method = prop::option::weighted(0.3, one_of(&["GET", "POST"][..]).prop_map(Arc::from));
    (prop::option::weighted(0.8, path), method, values(), values()).prop_map(|(path, method, headers, query)| Match {
        path,
        method,
        headers,
        query,
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    let rule = prop::collection::vec(any_match(), 0..3).prop_map(|matches| rule("r", matches));
    let names =
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(one_of(&["web.test", "*.web.test"][..]), 1..3)];
    let kind = prop_oneof![4 => Just(RouteKind::Http), 1 => Just(RouteKind::Tcp)];
    (kind, names, prop::collection::vec(rule, 0..3)).prop_map(|(kind, names, rules)| Route {
        kind,
        hostnames: names.into_iter().map(Arc::from).collect(),
        ..route(rules)
    })
}

/// Where in the port's routes: route, rule, and match unless the rule takes everything.
type At = (usize, usize, Option<usize>);

fn selected(port: &OutboundPort, asked: &Asked) -> Option<Option<At>> {
    let (method, authority, path, fields, query) = asked;
    let mut headers = Headers::new();
    fields.iter().for_each(|(name, value)| headers.push(name.as_bytes(), value.as_bytes()));
    let query = (!query.is_empty()).then_some(*query);
    let view = RequestView { method, authority, path, query, headers: &headers };
    match select(port, &view) {
        Selection::Own => None,
        Selection::NoMatch => Some(None),
        Selection::Rule(Selected { route, rule, matched }) => {
            let at = port.routes.iter().position(|r| std::ptr::eq(r, route)).unwrap();
            let number = route.rules.iter().position(|r| std::ptr::eq(r, rule)).unwrap();
            let matched = matched.map(|m| rule.matches.iter().position(|n| std::ptr::eq(n, m)).unwrap());
            Some(Some((at, number, matched)))
        }
    }
}

/// As the Gateway API words it: all that match, in the order of its criteria.
fn expected(port: &OutboundPort, asked: &Asked) -> Option<Option<At>> {
    let (method, authority, path, fields, query) = asked;
    let routes = || port.routes.iter().enumerate().filter(|(_, route)| route.kind != RouteKind::Tcp);
    routes().next()?;
    let everything = Match { path: Some(PathMatch::Prefix("/".into())), ..Match::default() };
    let mut candidates = Vec::new();
    for (at, route) in routes() {
        let host = authority.split(':').next().unwrap_or_default();
        let meant = |name: &Arc<str>| match &**name {
            "*.web.test" => host == "a.web.test",
            name => host == name,
        };
        if !route.hostnames.is_empty() && !route.hostnames.iter().any(meant) {
            continue;
        }
        for (number, rule) in route.rules.iter().enumerate() {
            let listed = rule.matches.iter().enumerate().map(|(n, m)| (Some(n), m));
            let all: Vec<_> = if rule.matches.is_empty() { vec![(None, &everything)] } else { listed.collect() };
            for (position, matched) in all {
                let elements =
                    |path: &str| path.split('/').filter(|e| !e.is_empty()).map(str::to_owned).collect::<Vec<_>>();
                let (kind, length, holds) = match &matched.path {
                    Some(PathMatch::Exact(exact)) => (0, exact.len(), **exact == **path),
                    Some(PathMatch::Prefix(prefix)) => {
                        let (own, theirs) = (elements(prefix), elements(path));
                        (1, prefix.trim_end_matches('/').len().max(1), theirs.starts_with(&own))
                    }
                    Some(PathMatch::Regex(pattern)) => (2, 0, pattern.matches(path.as_bytes())),
                    None => (1, 1, true),
                };
                let text = |matched: &ValueMatch| match &matched.value {
                    StringMatch::Exact(exact) => exact.to_string(),
                    StringMatch::Regex(_) => unreachable!("none is made"),
                };
                let by_method = matched.method.as_deref().is_none_or(|m| m == *method);
                let by_header = matched
                    .headers
                    .iter()
                    .all(|header| fields.iter().any(|(name, value)| *name == &*header.name && *value == text(header)));
                let by_query = matched.query.iter().all(|parameter| {
                    let start = format!("{}=", parameter.name);
                    let first = query.split('&').find_map(|pair| pair.strip_prefix(&start));
                    first == Some(&text(parameter))
                });
                if holds && by_method && by_header && by_query {
                    let counts = (usize::MAX - matched.headers.len(), usize::MAX - matched.query.len());
                    let order = (kind, usize::MAX - length, matched.method.is_none(), counts, at, number, position);
                    candidates.push((order, (at, number, position)));
                }
            }
        }
    }
    candidates.sort();
    Some(candidates.first().map(|(_, at)| *at))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_rule_is_the_first_of_all_candidates(routes in prop::collection::vec(any_route(), 0..4), asked in asked()) {
        let asked_port = port(routes);
        prop_assert_eq!(selected(&asked_port, &asked), expected(&asked_port, &asked));
    }

    #[test]
    fn a_later_route_takes_only_what_it_matches_better(
        routes in prop::collection::vec(any_route(), 1..4), more in any_route(), asked in asked(),
    ) {
        let before = selected(&port(routes.clone()), &asked);
        let added = routes.len();
        let after = selected(&port(routes.into_iter().chain([more]).collect()), &asked);
        let is_new = matches!(after, Some(Some((at, ..))) if at == added);
        prop_assert!(is_new || after == before || (before.is_none() && after == Some(None)));
    }

    #[test]
    fn a_choice_by_weight_follows_the_weights(weights in prop::collection::vec(0_u32..5, 1..5), dice in any::<u64>()) {
        let backends: Vec<Backend> = weights.iter().map(|weight| backend("b", *weight)).collect();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        match choose(&backends, dice) {
            None => prop_assert_eq!(total, 0),
            Some(chosen) => {
                let at = backends.iter().position(|b| std::ptr::eq(b, chosen)).unwrap();
                let before: u64 = weights[..at].iter().map(|weight| u64::from(*weight)).sum();
                let point = (u128::from(dice) * u128::from(total)) >> 64;
                let (from, to) = (u128::from(before), u128::from(before + u64::from(weights[at])));
                prop_assert!(weights[at] > 0 && (from..to).contains(&point));
            }
        }
    }
}
