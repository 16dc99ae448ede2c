//! What a line holds, whoever chose its texts.

use super::*;

fn entry() -> Entry {
    Entry {
        ended: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        direction: Direction::Outbound,
        client: "127.0.0.1:4000".parse().unwrap(),
        client_identity: None,
        service: "shop/web:80".into(),
        route: "".into(),
        endpoint: None,
        protocol: "http/1.1",
        method: "GET".to_owned(),
        authority: "web".to_owned(),
        path: "/".to_owned(),
        status: 503,
        grpc_status: None,
        reason: Some(Reason::QueueFull),
        detail: String::new(),
        duration: Duration::from_micros(1_234),
        tries: 1,
        retry: None,
        request_bytes: 0,
        response_bytes: 12,
        trace: None,
    }
}

fn line(entry: &Entry) -> String {
    let mut line = String::new();
    format(&mut line, entry);
    line
}

#[test]
fn a_line_is_json_and_leaves_out_what_says_nothing() {
    let value: serde_json::Value = serde_json::from_str(&line(&entry())).unwrap();
    assert_eq!(value["time"], 1.5);
    assert_eq!(value["reason"], "queue_full");
    assert_eq!(value["duration_ms"], 1.234);
    assert!(value.get("trace").is_none() && value.get("endpoint").is_none());
}

#[test]
fn what_a_peer_chose_stays_inside_its_quotes() {
    let nasty = "/\",\"status\":200}\r\n{\"forged\":1}\u{1b}[31m\u{0}\u{2028}\\";
    let text = line(&Entry { path: nasty.to_owned(), ..entry() });
    assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
    assert!(!text.trim_end().chars().any(char::is_control));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["path"], nasty);
    assert_eq!(value["status"], 503);
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let text = line(&Entry { path: "é".repeat(TEXT_MAX), ..entry() });
    assert!(text.len() < 2 * TEXT_MAX, "{}", text.len());
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
}

#[test]
fn a_writer_that_is_behind_costs_lines_and_no_time() {
    let metrics = Arc::new(Metrics::default());
    let (log, writer) = AccessLog::new(Mode::All, metrics.clone());
    for _ in 0..WAITING_MAX + 7 {
        log.write(entry());
    }
    assert_eq!(metrics.proxy.log_lines_dropped.value(), 7);
    drop(log);
    let mut out = Vec::new();
    writer.run(&mut out);
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), WAITING_MAX);
}

#[test]
fn modes_choose_what_is_written() {
    let never = || panic!("the dice are not asked");
    assert!(!Mode::Off.wants(500, Some(Reason::NoRoute), never));
    assert!(Mode::All.wants(200, None, never));
    assert!(Mode::Errors.wants(502, None, never));
    assert!(Mode::Errors.wants(200, Some(Reason::ClientGone), never));
    assert!(!Mode::Errors.wants(404, None, never));
    assert!(Mode::Sampled(10).wants(200, None, || 9));
    assert!(!Mode::Sampled(10).wants(200, None, || 10));
}
