//! Contexts as they arrive and leave.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.push(name.as_bytes(), value.as_bytes());
    }
    headers
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn as_parent(context: &Context) -> Parent {
    let Context { trace, span, sampled, format } = *context;
    Parent { trace, span, sampled: Some(sampled), format }
}

fn as_context(parent: &Parent) -> Context {
    let Parent { trace, span, sampled, format } = *parent;
    Context { trace, span, sampled: sampled == Some(true), format }
}

fn w3c_text(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

#[test]
fn a_w3c_context_is_read_and_continued_with_a_span_of_our_own() {
    let mut headers = headers(&[("Traceparent", &w3c_text("01")), ("tracestate", "a=b")]);
    let span = Span::arrive(&headers, 0, &Rules::default(), &mut StdRng::seed_from_u64(1));
    assert_eq!(hex(&span.context.trace), TRACE);
    assert_eq!(span.parent.map(|p| hex(&p)).as_deref(), Some(SPAN));
    assert!(span.context.sampled);
    inject(&mut headers, &span.context);
    assert_eq!(extract(&headers), Some(as_parent(&span.context)));
    assert_eq!(headers.get("tracestate"), Some(&b"a=b"[..]));
}

#[test]
fn what_is_no_w3c_context_begins_a_new_trace() {
    let upper = w3c_text("01").to_uppercase();
    let cases = [
        "",
        "00",
        &upper,
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736+00f067aa0ba902b7-01",
        "éé-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ];
    for case in cases {
        assert_eq!(extract(&headers(&[("traceparent", case)])), None, "{case}");
    }
    let later = format!("01-{TRACE}-{SPAN}-01-more");
    assert!(extract(&headers(&[("traceparent", &later)])).is_some(), "a later version may say more");
}

#[test]
fn b3_is_read_and_written_in_the_format_it_came_in() {
    let single = format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90");
    let mut fields = headers(&[("b3", &single), ("X-B3-Sampled", "0"), ("traceparent", "no"), ("tracestate", "a=b")]);
    let context = as_context(&extract(&fields).unwrap());
    assert!(context.sampled && context.format == Format::B3Single);
    inject(&mut fields, &Context { sampled: false, ..context });
    assert_eq!(fields.get("b3"), Some(format!("{TRACE}-{SPAN}-0").as_bytes()));
    for other in ["x-b3-sampled", "traceparent", "tracestate"] {
        assert!(!fields.contains(other), "{other} would say something else");
    }

    let mut fields = headers(&[
        ("X-B3-TraceId", "a3ce929d0e0e4736"),
        ("X-B3-SpanId", SPAN),
        ("X-B3-ParentSpanId", SPAN),
        ("X-B3-Flags", "1"),
    ]);
    let context = as_context(&extract(&fields).unwrap());
    assert_eq!(hex(&context.trace), "0000000000000000a3ce929d0e0e4736");
    assert!(context.sampled && context.format == Format::B3Multi);
    inject(&mut fields, &context);
    assert!(!fields.contains("x-b3-parentspanid"));
    assert_eq!(extract(&fields), Some(as_parent(&context)));
}

#[test]
fn w3c_wins_over_b3_and_only_it_goes_on() {
    let b3 = format!("{}-{SPAN}-0", "1".repeat(32));
    let mut fields = headers(&[("b3", &b3), ("x-b3-sampled", "0"), ("traceparent", &w3c_text("01"))]);
    let context = as_context(&extract(&fields).unwrap());
    assert_eq!(hex(&context.trace), TRACE);
    inject(&mut fields, &context);
    assert!(!fields.contains("b3") && !fields.contains("x-b3-sampled"));
}

#[test]
fn a_sampling_decision_is_obeyed_with_a_context_and_without_and_ours_where_there_is_none() {
    let deferred = format!("{TRACE}-{SPAN}");
    let sampled = format!("{TRACE}-{SPAN}-1");
    let cases = [
        (("b3", "0"), 1_000_000, false),
        (("b3", "1"), 0, true),
        (("b3", "d"), 0, true),
        (("x-b3-sampled", "0"), 1_000_000, false),
        (("x-b3-sampled", "true"), 0, true),
        (("x-b3-flags", "1"), 0, true),
        (("b3", &deferred), 1_000_000, true),
        (("b3", &deferred), 0, false),
        (("b3", &sampled), 0, true),
    ];
    for (field, ppm, expected) in cases {
        let span = Span::arrive(&headers(&[field]), ppm, &Rules::default(), &mut StdRng::seed_from_u64(1));
        assert_eq!(span.context.sampled, expected, "{field:?} at {ppm}");
    }
}

#[test]
fn the_operators_sampler_and_format_win_over_the_meshs() {
    let arrive = |rules: &Rules, fields: &[(&str, &str)], ppm| {
        Span::arrive(&headers(fields), ppm, rules, &mut StdRng::seed_from_u64(1)).context
    };
    let off = Rules { sampler: Some(Sampler { ppm: 0, parent_based: true }), format: Format::B3Single };
    assert!(!arrive(&off, &[], 1_000_000).sampled);
    assert_eq!(arrive(&off, &[], 0).format, Format::B3Single);
    let parent = w3c_text("01");
    let continued = arrive(&off, &[("traceparent", &parent)], 0);
    assert!(continued.sampled && continued.format == Format::W3c, "a trace goes on as it came");
    let never = Rules { sampler: Some(Sampler { ppm: 0, parent_based: false }), ..Rules::default() };
    assert!(!arrive(&never, &[("traceparent", &parent)], 1_000_000).sampled);
}

#[test]
fn sampling_without_a_parent_follows_the_ratio() {
    let mut rng = StdRng::seed_from_u64(7);
    let sampled = |ppm, rng: &mut StdRng| {
        (0..20_000).filter(|_| Span::arrive(&Headers::new(), ppm, &Rules::default(), rng).context.sampled).count()
    };
    assert_eq!(sampled(0, &mut rng), 0);
    assert_eq!(sampled(1_000_000, &mut rng), 20_000);
    let tenth = sampled(100_000, &mut rng);
    assert!((1_800..2_200).contains(&tenth), "{tenth}");
}

#[test]
fn a_childs_parent_is_the_span_it_was_made_from() {
    let mut rng = StdRng::seed_from_u64(3);
    let span = Span::arrive(&Headers::new(), 1_000_000, &Rules::default(), &mut rng);
    let child = span.child(&mut rng);
    assert_eq!(child.parent, Some(span.context.span));
    assert_eq!(child.context.trace, span.context.trace);
    assert_ne!(child.context.span, span.context.span);
}

#[test]
fn opentelemetrys_variables_mean_what_they_mean_everywhere() {
    let sampler = |ppm, parent_based| Some(Sampler { ppm, parent_based });
    let cases = [
        ((None, None, None), None, Format::W3c),
        ((Some("always_on"), None, Some("baggage,b3multi,b3")), sampler(1_000_000, false), Format::B3Multi),
        ((Some("always_off"), Some("1"), Some("b3")), sampler(0, false), Format::B3Single),
        ((Some("traceidratio"), Some("0.25"), Some("none")), sampler(250_000, false), Format::W3c),
        ((Some("parentbased_traceidratio"), Some("0.01"), None), sampler(10_000, true), Format::W3c),
        ((Some("parentbased_always_on"), None, None), sampler(1_000_000, true), Format::W3c),
        // Out of range counts as not given (OpenTelemetry, "SDK configuration").
        ((Some("parentbased_traceidratio"), Some("7"), None), sampler(1_000_000, true), Format::W3c),
        ((Some("jaeger_remote"), Some("x"), Some("tracecontext,b3")), None, Format::W3c),
    ];
    for ((name, argument, propagators), sampler, format) in cases {
        let rules = Rules::from_environment(name, argument, propagators);
        assert_eq!(rules, Rules { sampler, format }, "{name:?} {argument:?} {propagators:?}");
    }
}
