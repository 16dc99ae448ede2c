use leno_proto::policy;
mod simulation;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn rules(on: &[RetryOn]) -> Retries {
    Retries {
        attempts: 2,
        on: on.to_vec(),
        methods: RetryMethods::Idempotent,
        backoff: policy::Backoff { base: ms(25), max: ms(250) },
        budget: policy::Budget { percent: 20, interval: ms(10_000), min_per_second: 10 },
        respect_retry_after: true,
        retry_after_max: ms(10_000),
        max_body_bytes: 65_536,
        different_endpoint: true,
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const GET: Asked = Asked { idempotent: true, replayable: true, remaining: None };
const POST: Asked = Asked { idempotent: false, ..GET };

fn failed(reason: Reason) -> Ended {
    Ended::Failed { reason, never_processed: false, reused: false, answered: false }
}

fn answered(status: u16) -> Ended {
    Ended::Answered { status, grpc_status: None, reason: None, wish: Wish::None }
}

fn first(rules: &Retries, ended: Ended, asked: Asked) -> Verdict {
    let now = Instant::now();
    let budget = Budget::of_policy(&rules.budget, now);
    let budgets = Budgets { policy: &budget, transport: &budget };
    Spent::default().verdict(rules, ended, asked, budgets, now, &mut StdRng::seed_from_u64(7))
}

fn check(on: &[RetryOn], ended: Ended, asked: Asked, expected: Result<Kind, Stop>) {
    let found = match first(&rules(on), ended, asked) {
        Verdict::Again { kind, .. } => Ok(kind),
        Verdict::Stop(stop) => Err(stop),
    };
    assert_eq!(found, expected, "{on:?} {ended:?} {asked:?}");
}

#[test]
fn what_was_never_processed_is_repeated_for_any_method_and_any_policy() {
    let proven =
        Ended::Failed { reason: Reason::ResetBeforeResponse, never_processed: true, reused: false, answered: false };
    check(&[], proven, POST, Ok(Kind::NeverProcessed));
    check(&[], failed(Reason::ConnectRefused), POST, Ok(Kind::NeverProcessed));
    check(&[], failed(Reason::TlsWrongIdentity), POST, Ok(Kind::NeverProcessed));
    let told = Ended::Answered { status: 503, grpc_status: None, reason: Some(Reason::Draining), wish: Wish::None };
    check(&[], told, POST, Ok(Kind::NeverProcessed));
    let race =
        Ended::Failed { reason: Reason::ResetBeforeResponse, never_processed: true, reused: true, answered: false };
    check(&[], race, POST, Ok(Kind::IdleRace));
}

#[test]
fn what_may_have_been_processed_needs_policy_and_method() {
    let reset = failed(Reason::ResetBeforeResponse);
    check(&[], reset, GET, Err(Stop::Final));
    check(&[RetryOn::ResetBeforeRequest], reset, GET, Err(Stop::Final));
    check(&[RetryOn::Reset], reset, GET, Ok(Kind::Policy));
    check(&[RetryOn::Reset], reset, POST, Err(Stop::Method));
    check(&[RetryOn::Timeout], reset, GET, Err(Stop::Final));
    check(&[RetryOn::Timeout], failed(Reason::FirstByteTimeout), GET, Ok(Kind::Policy));
    check(&[RetryOn::Reset], failed(Reason::FirstByteTimeout), GET, Err(Stop::Final));
    let any = Retries { methods: RetryMethods::Any, ..rules(&[RetryOn::Reset]) };
    assert!(matches!(first(&any, reset, POST), Verdict::Again { kind: Kind::Policy, .. }));
}

#[test]
fn a_reset_of_a_connection_that_had_idled_is_repeated_only_where_the_method_allows() {
    let reset = |reason, answered| Ended::Failed { reason, never_processed: false, reused: true, answered };
    let reason = Reason::ResetBeforeResponse;
    check(&[], reset(reason, false), GET, Ok(Kind::IdleReset));
    check(&[], reset(reason, false), POST, Err(Stop::Final));
    check(&[], reset(reason, true), GET, Err(Stop::Final));
    check(&[], reset(Reason::FirstByteTimeout, false), GET, Err(Stop::Final));
}

#[test]
fn answers_are_repeated_as_policy_names_them() {
    for (on, status, expected) in [
        (RetryOn::GatewayError, 503, true),
        (RetryOn::GatewayError, 500, false),
        (RetryOn::ServerError, 500, true),
        (RetryOn::ServerError, 499, false),
        (RetryOn::ServerError, 600, false),
        (RetryOn::RateLimited, 429, true),
        (RetryOn::Status(409), 409, true),
        (RetryOn::Status(409), 408, false),
        (RetryOn::Grpc(14), 200, false),
    ] {
        check(&[on], answered(status), GET, if expected { Ok(Kind::Policy) } else { Err(Stop::Final) });
    }
    let unavailable = Ended::Answered { status: 200, grpc_status: Some(14), reason: None, wish: Wish::None };
    check(&[RetryOn::Grpc(14)], unavailable, GET, Ok(Kind::Policy));
}

#[test]
fn an_answer_that_began_and_a_body_that_is_gone_end_it() {
    let begun =
        Ended::Failed { reason: Reason::ResetBeforeResponse, never_processed: true, reused: true, answered: true };
    check(&[RetryOn::Reset], begun, GET, Err(Stop::Final));
    let gone = Asked { replayable: false, ..GET };
    check(&[], failed(Reason::ConnectRefused), gone, Err(Stop::Body));
}

#[test]
fn our_own_limits_are_not_tried_again() {
    for reason in [Reason::QueueFull, Reason::BreakerOpen, Reason::RateLimited, Reason::PolicyDenied] {
        check(&[RetryOn::ServerError, RetryOn::Reset, RetryOn::RateLimited], failed(reason), GET, Err(Stop::Final));
    }
}

#[test]
fn a_hop_that_ran_out_of_retries_is_not_asked_again() {
    for reason in [Reason::RetryBudget, Reason::RetryLimit] {
        let told = Ended::Answered { status: 503, grpc_status: None, reason: Some(reason), wish: Wish::None };
        check(&[RetryOn::GatewayError], told, GET, Err(Stop::Final));
    }
}

#[test]
fn what_met_the_end_of_an_idle_connection_is_repeated_however_many_did() {
    let now = Instant::now();
    let rules = rules(&[]);
    let budget = Budget::of_policy(&rules.budget, now);
    let budgets = Budgets { policy: &budget, transport: &budget };
    let mut dice = StdRng::seed_from_u64(7);
    let reason = Reason::ResetBeforeResponse;
    let mut repeated = |never_processed, requests| {
        let ended = Ended::Failed { reason, never_processed, reused: true, answered: false };
        let mut verdict = || Spent::default().verdict(&rules, ended, GET, budgets, now, &mut dice);
        (0..requests).filter(|_| matches!(verdict(), Verdict::Again { .. })).count()
    };
    assert_eq!(repeated(false, 64), 64, "each may have been processed: a burst is allowed");
    assert_eq!(repeated(false, 1000), 36, "and then no more");
    assert_eq!(repeated(true, 1000), 1000, "nobody has received these");
}

#[test]
fn each_kind_has_its_own_number_of_tries() {
    let now = Instant::now();
    let rules = rules(&[RetryOn::GatewayError]);
    let budget = Budget::of_policy(&policy::Budget { min_per_second: 1000, ..rules.budget.clone() }, now);
    let budgets = Budgets { policy: &budget, transport: &budget };
    let mut dice = StdRng::seed_from_u64(7);
    let mut spent = Spent::default();
    let race =
        Ended::Failed { reason: Reason::ResetBeforeResponse, never_processed: true, reused: true, answered: false };
    for (ended, times) in [(race, 1), (failed(Reason::ConnectRefused), 2), (answered(503), 2)] {
        for _ in 0..times {
            assert!(matches!(spent.verdict(&rules, ended, GET, budgets, now, &mut dice), Verdict::Again { .. }));
        }
        assert_eq!(spent.verdict(&rules, ended, GET, budgets, now, &mut dice), Verdict::Stop(Stop::Limit));
    }
    assert_eq!(spent.total(), 5);
}

#[test]
fn an_empty_budget_stops_and_a_retry_past_the_deadline_costs_nothing() {
    let now = Instant::now();
    let rules = rules(&[RetryOn::GatewayError]);
    let budget = Budget::of_policy(&policy::Budget { percent: 0, min_per_second: 1, ..rules.budget.clone() }, now);
    let budgets = Budgets { policy: &budget, transport: &budget };
    let mut dice = StdRng::seed_from_u64(7);
    let late = Asked { remaining: Some(Duration::ZERO), ..GET };
    for _ in 0..100 {
        let verdict = Spent::default().verdict(&rules, answered(503), late, budgets, now, &mut dice);
        assert_eq!(verdict, Verdict::Stop(Stop::Deadline));
    }
    let mut once = || Spent::default().verdict(&rules, answered(503), GET, budgets, now, &mut dice);
    assert!(matches!(once(), Verdict::Again { .. }));
    assert_eq!(once(), Verdict::Stop(Stop::Budget));
}

#[test]
fn the_servers_wish_is_kept_within_bounds() {
    let told = |wish| Ended::Answered { status: 503, grpc_status: None, reason: None, wish };
    let rules = rules(&[RetryOn::GatewayError]);
    let after = |wish| match first(&rules, told(wish), GET) {
        Verdict::Again { after, .. } => Some(after),
        Verdict::Stop(_) => None,
    };
    let polite = after(Wish::parse(Some(b"2"), None)).unwrap();
    assert!((ms(2_000)..=ms(2_025)).contains(&polite));
    assert_eq!(after(Wish::parse(Some(b"11"), None)), None);
    assert_eq!(after(Wish::parse(None, Some(b"70"))), Some(ms(70)));
    assert_eq!(after(Wish::parse(Some(b"1"), Some(b"-1"))), None);
    assert_eq!(after(Wish::parse(None, Some(b"soon"))), None);
    assert!(after(Wish::parse(Some(b"Fri, 31 Dec 1999 23:59:59 GMT"), None)).unwrap() <= ms(25));
    let deaf = Retries { respect_retry_after: false, ..rules.clone() };
    assert!(matches!(first(&deaf, told(Wish::Never), GET), Verdict::Again { .. }));
}

#[test]
fn backoff_is_spread_from_nothing_to_the_doubled_base() {
    let rules = policy::Backoff { base: ms(25), max: ms(250) };
    let mut dice = StdRng::seed_from_u64(7);
    for (retries, most) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (60, 250)] {
        let waits: Vec<_> = (0..2_000).map(|_| backoff(&rules, retries, &mut dice).as_secs_f64()).collect();
        let most = ms(most).as_secs_f64();
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!((0.47..0.53).contains(&(mean / most)), "mean {mean} of {most}");
    }
}

#[test]
fn idempotent_is_by_method_or_by_promise() {
    for (method, expected) in [("GET", true), ("PUT", true), ("DELETE", true), ("POST", false), ("get", false)] {
        assert_eq!(is_idempotent(method, false), expected, "{method}");
    }
    assert!(is_idempotent("POST", true));
}
