//! Who is chosen.

use std::collections::HashMap;
use std::sync::Arc;

use leno_proto::policy::Endpoint;
use leno_proto::policy::HashKey;
use leno_proto::policy::Locality;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Traffic;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::breaker::Outcome;
use crate::upstream::Context;
use crate::upstream::Here;
use crate::upstream::fixtures;

const MS: f64 = 1_000_000.0;

fn target(count: u8, edit: impl Fn(&mut Traffic), place: impl Fn(u8, &mut Endpoint), now: Instant) -> Target {
    target_seen(&Here::default(), count, edit, place, now)
}

fn target_seen(
    here: &Here,
    count: u8,
    edit: impl Fn(&mut Traffic),
    place: impl Fn(u8, &mut Endpoint),
    now: Instant,
) -> Target {
    let mut policy = fixtures::traffic();
    edit(&mut policy);
    let endpoints: Vec<Endpoint> = (0..count)
        .map(|n| {
            let mut endpoint = fixtures::endpoint(&format!("e{n}"), n);
            place(n, &mut endpoint);
            endpoint
        })
        .collect();
    let name = ServicePort { service: ServiceName { namespace: "n".into(), name: "s".into() }, port: 80 };
    let context = Context { now, reclaim: &|_| Box::new(|| ()), share: None, here };
    Target::build(&name, &Arc::new(policy), &endpoints.iter().collect::<Vec<_>>(), None, &context)
}

fn choice(target: &Target, now: Instant) -> Choice<'_> {
    Choice { target, tried: &[], hash: None, turn: 0, now }
}

fn counts(choice: &Choice<'_>, latency: impl Fn(usize) -> f64 + Copy) -> HashMap<usize, usize> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut counts = HashMap::new();
    for _ in 0..10_000 {
        *counts.entry(pick(choice, latency, &mut rng).unwrap().index).or_default() += 1;
    }
    counts
}

fn eject(target: &Target, index: usize, now: Instant) {
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..5 {
        let rules = &target.policy.circuit_breaker.endpoint;
        target.members[index].shared.ejection.record(Outcome::TransportFailure, now, rules, &mut rng);
    }
    assert!(target.members[index].shared.ejection.is_ejected());
}

#[test]
fn equals_share_evenly_and_a_slow_one_gets_little() {
    let now = Instant::now();
    let target = target(4, |_| (), |_, _| (), now);
    let even = counts(&choice(&target, now), |_| MS);
    assert!(even.values().all(|c| c.abs_diff(2500) < 200), "{even:?}");
    let slow = counts(&choice(&target, now), |index| if index == 2 { 10.0 * MS } else { MS });
    assert!(slow.get(&2).copied().unwrap_or_default() < 100, "{slow:?}");
}

#[test]
fn what_is_under_way_counts() {
    let now = Instant::now();
    let target = target(2, |_| (), |_, _| (), now);
    target.members[0].shared.in_flight.store(5, Ordering::Relaxed);
    assert_eq!(counts(&choice(&target, now), |_| MS).get(&0), None);
}

#[test]
fn an_ejected_endpoint_is_left_out_and_gets_one_probe_when_its_penalty_is_over() {
    let now = Instant::now();
    let target = target(3, |_| (), |_, _| (), now);
    eject(&target, 1, now);
    assert_eq!(counts(&choice(&target, now), |_| MS).get(&1), None);
    let later = now + Duration::from_secs(120);
    let mut rng = StdRng::seed_from_u64(3);
    let probe = pick(&choice(&target, later), |_| MS, &mut rng).unwrap();
    assert!(probe.index == 1 && probe.probe.is_some());
    assert!(pick(&choice(&target, later), |_| MS, &mut rng).unwrap().probe.is_none(), "one probe at a time");
}

#[test]
fn a_lone_endpoint_is_used_whatever_it_did() {
    let now = Instant::now();
    let target = target(1, |p| p.circuit_breaker.endpoint.max_ejected_percent = 100, |_, _| (), now);
    eject(&target, 0, now);
    assert_eq!(pick(&choice(&target, now), |_| MS, &mut StdRng::seed_from_u64(1)).unwrap().index, 0);
}

#[test]
fn no_endpoint_is_no_choice() {
    let now = Instant::now();
    let none = target(2, |_| (), |_, e| (e.ready, e.serving) = (false, false), now);
    assert!(pick(&choice(&none, now), |_| MS, &mut StdRng::seed_from_u64(1)).is_none());
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let now = Instant::now();
    let target = target(2, |_| (), |_, _| (), now);
    let one = Choice { tried: &[0], ..choice(&target, now) };
    assert_eq!(counts(&one, |_| MS).get(&0), None);
    let both = Choice { tried: &[0, 1], ..choice(&target, now) };
    assert!(pick(&both, |_| MS, &mut StdRng::seed_from_u64(1)).is_some());
}

/// Endpoints 0.. of `own` on our node, then of `zone` beside it in our zone, of six in all.
fn spread(locality: Locality, own: u8, zone: u8, now: Instant) -> Target {
    let here = Here { node: "n1".into(), zone: "a".into() };
    let place = move |n: u8, e: &mut Endpoint| {
        (e.node, e.zone) = match n {
            n if n < own => ("n1".into(), "a".into()),
            n if n < own + zone => ("n2".into(), "a".into()),
            _ => ("n3".into(), "b".into()),
        };
    };
    target_seen(&here, 6, |p| p.load_balancing.locality = locality, place, now)
}

fn chosen(target: &Target, tried: &[usize], now: Instant) -> Vec<usize> {
    let mut chosen: Vec<usize> = counts(&Choice { tried, ..choice(target, now) }, |_| MS).into_keys().collect();
    chosen.sort_unstable();
    chosen
}

#[test]
fn what_is_near_is_preferred_as_far_as_policy_says_and_nobody_is_left_without() {
    let now = Instant::now();
    let all = [0, 1, 2, 3, 4, 5];
    let cases = [
        (Locality::Off, 1, 3, &all[..]),
        (Locality::Prefer, 1, 2, &[0, 1, 2]),
        (Locality::Prefer, 1, 1, &all),
        (Locality::Strict, 1, 1, &[0, 1]),
        (Locality::Strict, 0, 0, &all),
        (Locality::Node, 1, 2, &[0]),
        (Locality::Node, 0, 2, &[0, 1]),
        (Locality::Node, 0, 0, &all),
    ];
    for (locality, own, zone, expected) in cases {
        let target = spread(locality, own, zone, now);
        assert_eq!(chosen(&target, &[], now), expected, "{locality:?}, {own} here, {zone} in the zone");
    }
}

#[test]
fn who_is_ill_or_was_tried_is_not_preferred_for_being_near() {
    let now = Instant::now();
    let target = spread(Locality::Node, 1, 2, now);
    assert_eq!(chosen(&target, &[0], now), [1, 2]);
    assert_eq!(chosen(&target, &[0, 1, 2], now), [3, 4, 5]);
    eject(&target, 0, now);
    assert_eq!(chosen(&target, &[], now), [1, 2]);
}

#[test]
fn without_a_known_place_nothing_is_near() {
    let now = Instant::now();
    let prefer = |p: &mut Traffic| p.load_balancing.locality = Locality::Node;
    assert_eq!(chosen(&target(3, prefer, |_, _| (), now), &[], now), [0, 1, 2]);
}

#[test]
fn a_new_endpoint_among_old_ones_starts_slowly() {
    let start = Instant::now();
    let mut target = target(4, |_| (), |_, _| (), start);
    let now = start + Duration::from_secs(100);
    let newcomer = target_at(now);
    target.members[0] = newcomer.members[0].clone();
    let early = counts(&choice(&target, now + Duration::from_secs(1)), |_| MS).get(&0).copied().unwrap_or_default();
    let late = counts(&choice(&target, now + Duration::from_secs(20)), |_| MS)[&0];
    assert!(early < 200 && late > 2000, "{early} then {late}");
}

fn target_at(now: Instant) -> Target {
    target(1, |_| (), |_, _| (), now)
}

#[test]
fn one_hash_stays_with_its_endpoint_and_few_move_when_one_leaves() {
    let now = Instant::now();
    let hashed = |p: &mut Traffic| {
        let key = HashKey::Header("x-user".into());
        p.load_balancing.algorithm = Algorithm::ConsistentHash { key, bounded_percent: 125 };
    };
    let (ten, nine) = (target(10, hashed, |_, _| (), now), target(9, hashed, |_, _| (), now));
    let mut rng = StdRng::seed_from_u64(1);
    let mut of = |target: &Target, hash| {
        let index = pick(&Choice { hash: Some(hash), ..choice(target, now) }, |_| MS, &mut rng).unwrap().index;
        target.members[index].endpoint.uid.clone()
    };
    let moved = (0..1000u64).filter(|hash| of(&ten, *hash) != of(&nine, *hash)).count();
    assert!((50..150).contains(&moved), "a tenth should move: {moved} of 1000");
}

#[test]
fn one_source_stays_together_however_much_it_sends_and_a_key_among_many_does_not() {
    let now = Instant::now();
    for (key, together) in [(HashKey::SourceIp, true), (HashKey::Header("x-user".into()), false)] {
        let hashed = |p: &mut Traffic| {
            p.load_balancing.algorithm = Algorithm::ConsistentHash { key: key.clone(), bounded_percent: 125 };
        };
        let target = target(4, hashed, |_, _| (), now);
        let mut rng = StdRng::seed_from_u64(1);
        let mut next = || pick(&Choice { hash: Some(7), ..choice(&target, now) }, |_| MS, &mut rng).unwrap().index;
        let first = next();
        target.members[first].shared.in_flight.store(100, Ordering::Relaxed);
        assert_eq!(next() == first, together, "{key:?}");
    }
}

#[test]
fn a_peak_shows_at_once_and_fades() {
    let now = Instant::now();
    let decay = Duration::from_secs(10);
    let mut ewma = Ewma::new(now);
    assert_eq!(ewma.read(decay, now), UNKNOWN_NANOS);
    ewma.observe(Duration::from_millis(1), decay, now);
    ewma.observe(Duration::from_millis(100), decay, now);
    assert_eq!(ewma.read(decay, now), 100.0 * MS);
    let later = now + Duration::from_secs(10);
    ewma.observe(Duration::from_millis(1), decay, later);
    let value = ewma.read(decay, later) / MS;
    assert!((30.0..45.0).contains(&value), "{value}");
}
