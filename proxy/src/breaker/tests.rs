use leno_proto::policy::OnOpen;
use leno_proto::policy::ServiceBreaker;
use leno_proto::policy::Slow;
use leno_proto::policy::Trip;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn rules() -> EndpointBreaker {
    EndpointBreaker {
        consecutive_failures: Some(5),
        status_failures: None,
        penalty_min: secs(1),
        penalty_max: secs(60),
        max_ejected_percent: 50,
        panic_threshold: 50,
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn fail(ejection: &Ejection, times: u32, now: Instant, dice: &mut StdRng) -> Option<Change> {
    (0..times).filter_map(|_| ejection.record(Outcome::TransportFailure, now, &rules(), dice)).last()
}

fn penalty(change: Option<Change>) -> Duration {
    match change {
        Some(Change::Ejected { penalty }) => penalty,
        other => panic!("not ejected: {other:?}"),
    }
}

#[test]
fn five_failures_in_a_row_eject_and_one_success_between_does_not() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), now);
    assert_eq!(fail(&ejection, 4, now, &mut dice), None);
    ejection.record(Outcome::Success, now, &rules(), &mut dice);
    assert_eq!(fail(&ejection, 4, now, &mut dice), None);
    assert_eq!(ejection.standing(now), Standing::In);
    let penalty = penalty(fail(&ejection, 1, now, &mut dice));
    assert!((secs(1)..=Duration::from_millis(1500)).contains(&penalty));
    assert_eq!(ejection.standing(now), Standing::Out);
}

#[test]
fn answers_of_500_eject_only_where_the_policy_says_so() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), now);
    for _ in 0..100 {
        assert_eq!(ejection.record(Outcome::StatusFailure, now, &rules(), &mut dice), None);
    }
    let strict = EndpointBreaker { status_failures: Some(3), ..rules() };
    ejection.record(Outcome::Success, now, &strict, &mut dice);
    assert!((0..3).filter_map(|_| ejection.record(Outcome::StatusFailure, now, &strict, &mut dice)).count() == 1);
}

#[test]
fn what_the_client_broke_off_counts_for_nothing() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), now);
    fail(&ejection, 4, now, &mut dice);
    ejection.record(Outcome::Neutral, now, &rules(), &mut dice);
    penalty(fail(&ejection, 1, now, &mut dice));
}

#[test]
fn after_the_penalty_one_probe_decides() {
    let (start, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let now = start;
    let quorum = Arc::new(Quorum::new(4));
    let ejection = Arc::new(Ejection::new(Arc::clone(&quorum), now));
    let first = penalty(fail(&ejection, 5, start, &mut dice));
    assert!(ejection.claim(start).is_none());
    let later = start + first;
    assert_eq!(ejection.standing(later), Standing::Probe);
    let probe = ejection.claim(later).unwrap();
    assert_eq!(ejection.standing(later), Standing::Out, "one at a time");
    assert!(ejection.claim(later).is_none());
    let second = penalty(fail(&ejection, 1, later, &mut dice));
    drop(probe);
    assert!(second >= secs(2), "a failed probe doubles the penalty: {second:?}");
    let end = later + second;
    let probe = ejection.claim(end).unwrap();
    drop(probe);
    let _probe = ejection.claim(end).expect("a probe without an outcome frees the place");
    assert_eq!(ejection.record(Outcome::Success, end, &rules(), &mut dice), Some(Change::Reinstated));
    assert_eq!((ejection.standing(end), quorum.ejected()), (Standing::In, 0));
    assert!(end - ejection.reinstated().unwrap() < Duration::from_millis(1));
}

#[test]
fn a_late_failure_from_before_the_ejection_does_not_lengthen_it() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), now);
    penalty(fail(&ejection, 5, now, &mut dice));
    assert_eq!(fail(&ejection, 20, now, &mut dice), None);
}

#[test]
fn a_relapse_doubles_up_to_the_maximum() {
    let (mut now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), now);
    let mut seen = penalty(fail(&ejection, 5, now, &mut dice));
    for _ in 0..12 {
        now += seen;
        seen = penalty(fail(&ejection, 1, now, &mut dice));
        assert!(seen <= secs(90));
    }
    assert!(seen >= secs(60));
    now += seen;
    ejection.record(Outcome::Success, now, &rules(), &mut dice);
    assert!(penalty(fail(&ejection, 5, now + secs(10), &mut dice)) >= secs(60), "a relapse");
}

#[test]
fn an_endpoint_that_behaved_for_long_starts_over() {
    let (start, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let ejection = Ejection::new(Arc::new(Quorum::new(4)), start);
    let first = penalty(fail(&ejection, 5, start, &mut dice));
    ejection.record(Outcome::Success, start + first, &rules(), &mut dice);
    assert!(penalty(fail(&ejection, 5, start + secs(60), &mut dice)) < secs(2));
}

#[test]
fn no_more_than_the_allowed_share_is_ejected_and_a_lone_endpoint_never() {
    for (members, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)] {
        let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
        let quorum = Arc::new(Quorum::new(members));
        let endpoints: Vec<_> = (0..members).map(|_| Ejection::new(Arc::clone(&quorum), now)).collect();
        for endpoint in &endpoints {
            fail(endpoint, 50, now, &mut dice);
        }
        assert_eq!(quorum.ejected(), expected, "{members} members");
        drop(endpoints);
        assert_eq!(quorum.ejected(), 0, "an endpoint that is removed leaves the count");
    }
}

#[test]
fn a_shrunken_destination_panics() {
    let quorum = Quorum::new(4);
    assert!(quorum.join(&rules()) && quorum.join(&rules()) && !quorum.join(&rules()));
    assert!(!quorum.panics(&rules()), "half is usable");
    quorum.set_members(3);
    assert!(quorum.panics(&rules()));
}

proptest! {
    /// Whatever happens in whatever order, the count of ejected endpoints is that of the endpoints which are out, and stays
    /// within its share.
    #[test]
    fn the_quorum_is_exact(steps in proptest::collection::vec((0usize..6, 0u8..4, 0u64..800), 1..400), seed: u64) {
        let (mut now, mut dice) = (Instant::now(), StdRng::seed_from_u64(seed));
        let quorum = Arc::new(Quorum::new(6));
        let rules = EndpointBreaker { consecutive_failures: Some(2), status_failures: Some(2), ..rules() };
        let endpoints: Vec<_> = (0..6).map(|_| Arc::new(Ejection::new(Arc::clone(&quorum), now))).collect();
        for (endpoint, outcome, ms) in steps {
            now += Duration::from_millis(ms);
            let _probe = endpoints[endpoint].claim(now);
            let outcome = [Outcome::Success, Outcome::TransportFailure, Outcome::StatusFailure, Outcome::Neutral][usize::from(outcome)];
            endpoints[endpoint].record(outcome, now, &rules, &mut dice);
            let out = endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
            prop_assert_eq!(quorum.ejected() as usize, out);
            prop_assert!(out <= 3);
        }
    }
}

fn service(trip: Trip) -> ServiceBreaker {
    ServiceBreaker {
        trip,
        slow: None,
        open_for: secs(30),
        open_for_max: secs(300),
        half_open_requests: 3,
        half_open_timeout: secs(10),
        on_open: OnOpen::Reject { status: 503 },
    }
}

fn ratio() -> Trip {
    Trip::Ratio { failure_percent: 50, window: secs(10), min_requests: 20 }
}

fn run(breaker: &Arc<Breaker>, outcome: Outcome, now: Instant, dice: &mut StdRng) -> Option<Phase> {
    match breaker.admit(now) {
        Verdict::Admitted(admission) => admission.report(outcome, secs(0), now, dice),
        other => panic!("not admitted: {other:?}"),
    }
}

fn opened(breaker: &Arc<Breaker>, now: Instant) -> Duration {
    match breaker.admit(now) {
        Verdict::Open { retry_after } => retry_after,
        other => panic!("not open: {other:?}"),
    }
}

#[test]
fn a_ratio_trips_only_with_enough_requests() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let breaker = Breaker::new(service(ratio()), now);
    for _ in 0..10 {
        assert_eq!(run(&breaker, Outcome::Success, now, &mut dice), None);
    }
    for _ in 0..9 {
        assert_eq!(run(&breaker, Outcome::StatusFailure, now, &mut dice), None);
    }
    assert_eq!(run(&breaker, Outcome::StatusFailure, now, &mut dice), Some(Phase::Open));
    let wait = opened(&breaker, now);
    assert!((secs(24)..=secs(36)).contains(&wait));
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let (start, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let breaker = Breaker::new(service(Trip::Count { failures: 5, window: secs(10) }), start);
    for n in 0..40 {
        assert_eq!(run(&breaker, Outcome::StatusFailure, start + secs(3 * n), &mut dice), None, "at {n}");
    }
    for _ in 0..4 {
        run(&breaker, Outcome::StatusFailure, start + secs(1000), &mut dice);
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    run(&breaker, Outcome::StatusFailure, start + secs(1001), &mut dice);
    assert_eq!(breaker.phase(), Phase::Open);
}

#[test]
fn half_open_lets_exactly_the_trials_through_and_closes_when_all_succeed() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let breaker = Breaker::new(service(Trip::Consecutive { count: 2 }), now);
    let stale = breaker.admit(now);
    run(&breaker, Outcome::TransportFailure, now, &mut dice);
    run(&breaker, Outcome::TransportFailure, now, &mut dice);
    let now = now + opened(&breaker, now);
    let mut trials = Vec::new();
    for _ in 0..3 {
        match breaker.admit(now) {
            Verdict::Admitted(admission) => trials.push(admission),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(breaker.admit(now), Verdict::HalfOpen { .. }));
    drop(trials.pop());
    match breaker.admit(now) {
        Verdict::Admitted(admission) => trials.push(admission),
        other => panic!("an abandoned trial is given to the next: {other:?}"),
    }
    if let Verdict::Admitted(stale) = stale {
        assert_eq!(stale.report(Outcome::TransportFailure, secs(0), now, &mut dice), None, "older than the phase");
    }
    let last: Vec<_> = trials.into_iter().map(|t| t.report(Outcome::Success, secs(0), now, &mut dice)).collect();
    assert_eq!(last, [None, None, Some(Phase::Closed)]);
}

#[test]
fn a_failed_trial_opens_again_for_twice_as_long() {
    let (mut now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let breaker = Breaker::new(service(Trip::Consecutive { count: 1 }), now);
    run(&breaker, Outcome::TransportFailure, now, &mut dice);
    for expected in [60, 120, 240, 300, 300] {
        now += opened(&breaker, now);
        assert_eq!(run(&breaker, Outcome::TransportFailure, now, &mut dice), Some(Phase::Open));
        let wait = opened(&breaker, now).as_secs_f64();
        assert!((0.8..=1.2).contains(&(wait / f64::from(expected))), "{wait} for {expected}");
    }
}

#[test]
fn trials_that_hang_do_not_keep_it_half_open_for_ever() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let breaker = Breaker::new(service(Trip::Consecutive { count: 1 }), now);
    run(&breaker, Outcome::TransportFailure, now, &mut dice);
    let now = now + opened(&breaker, now);
    let hanging: Vec<_> = (0..3).map(|_| breaker.admit(now)).collect();
    assert!(matches!(breaker.admit(now + secs(9)), Verdict::HalfOpen { .. }));
    assert!(matches!(breaker.admit(now + secs(10)), Verdict::Admitted(_)));
    drop(hanging);
    let verdicts: Vec<_> = (0..5).map(|_| breaker.admit(now + secs(11))).collect();
    let granted = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Admitted(_))).count();
    assert_eq!(granted, 3, "trials of an older phase are not given back to this one");
}

#[test]
fn slow_answers_trip_too() {
    let (now, mut dice) = (Instant::now(), StdRng::seed_from_u64(1));
    let rules = ServiceBreaker { slow: Some(Slow { threshold: secs(1), percent: 80 }), ..service(ratio()) };
    let breaker = Breaker::new(rules, now);
    for _ in 0..20 {
        match breaker.admit(now) {
            Verdict::Admitted(admission) => admission.report(Outcome::Success, secs(2), now, &mut dice),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(breaker.phase(), Phase::Open);
}
