use clap::Parser;

use super::*;

#[test]
fn durations_are_those_of_the_gateway_api() {
    let table = [
        ("10s", Some(10_000)),
        ("24h", Some(86_400_000)),
        ("1h30m", Some(5_400_000)),
        ("1s500ms", Some(1500)),
        ("0s", Some(0)),
        ("", None),
        ("10", None),
        ("s", None),
        ("10d", None),
        ("1s1s", None),
        ("123456s", None),
        ("-1s", None),
        ("1.5s", None),
        ("1s ", None),
        ("1é", None),
    ];
    for (text, millis) in table {
        assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text:?}");
    }
}

#[test]
fn a_source_and_a_state_folder_are_enough() {
    let config = Config::try_parse_from(["leno-control-plane", "--source", "dir:mesh", "--state", "s"]).unwrap();
    assert_eq!(config.source, Source::Directory("mesh".into()));
    assert_eq!((config.trust_domain.as_str(), config.namespace.as_str()), ("cluster.local", "leno-system"));
    for bad in ["mesh", "dir:", "http://x"] {
        assert!(Config::try_parse_from(["leno-control-plane", "--source", bad, "--state", "s"]).is_err(), "{bad}");
    }
}
