//! What is told arrives as meant, and what is wrong is said with field and remedy.

use super::*;

const MINIMAL: [&str; 4] =
    ["--control-plane=127.0.0.1:15012", "--pod-name=web-1", "--pod-namespace=shop", "--pod-uid=u-1"];

fn run(more: &[&str]) -> anyhow::Result<Config> {
    let all = ["leno-proxy", "run"].into_iter().chain(MINIMAL).chain(more.iter().copied());
    match parse(all.map(OsString::from))? {
        Invocation::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn little_has_to_be_said() {
    let config = run(&[]).unwrap();
    assert_eq!(config.control_plane, ["127.0.0.1:15012"]);
    assert_eq!(config.control_plane_identity.as_str(), "spiffe://cluster.local/ns/leno-system/sa/leno-control-plane");
    assert_eq!(config.workers, None);
    assert_eq!(config.access_log, Mode::Errors);
    assert_eq!(config.grace, Duration::from_secs(30));
    assert!(config.volume.to_str().unwrap().ends_with("-web-1"), "{:?}", config.volume);
    assert_eq!(config.admin_socket, config.volume.join("admin.sock"));
}

#[test]
fn lists_of_listeners_arrive_as_meant() {
    let config = run(&[
        "--listen-outbound=127.0.0.1:9000=orders.shop:80, [::1]:9001=payments.bank.svc.cluster.local:443",
        "--listen-inbound=127.1.0.2:18080=127.1.0.2:8080",
        "--control-plane=leno.leno-system.svc:1,[::1]:2",
    ])
    .unwrap();
    let port = |namespace: &str, name: &str, port| ServicePort {
        service: ServiceName { namespace: namespace.into(), name: name.into() },
        port,
    };
    assert_eq!(config.outbound_listen[0].service, port("shop", "orders", 80));
    assert_eq!(config.outbound_listen[1].service, port("bank", "payments", 443));
    assert_eq!(config.outbound_listen[1].listen, "[::1]:9001".parse().unwrap());
    assert_eq!(config.inbound_listen[0].application, "127.1.0.2:8080".parse().unwrap());
    assert_eq!(config.control_plane.len(), 2);
    assert_eq!(config.own_listeners().count(), 4);
}

#[test]
fn each_family_has_a_capture_of_its_own() {
    let both = ["--outbound-capture=127.0.0.1:15001,[::1]:15001", "--inbound-capture=0.0.0.0:15006,[::]:15006"];
    let config = run(&both).unwrap();
    assert_eq!(config.inbound_capture.len(), 2);
    for status in ["--status=[::]:15006", "--status=0.0.0.0:15006"] {
        let said = run(&[both[1], status]).unwrap_err().to_string();
        assert!(said.contains("LENO_STATUS uses the same address"), "{status}: {said}");
    }
}

#[test]
fn a_wrong_value_names_its_field_and_the_remedy() {
    for (argument, says) in [
        ("--control-plane=nowhere", ["LENO_CONTROL_PLANE", "host:port"]),
        ("--control-plane=::1:80", ["LENO_CONTROL_PLANE", "host:port"]),
        ("--control-plane=a:0", ["LENO_CONTROL_PLANE", "host:port"]),
        ("--trust-domain=UPPER", ["LENO_TRUST_DOMAIN", "lower-case"]),
        ("--control-plane-identity=https://x", ["LENO_CONTROL_PLANE_IDENTITY", "SPIFFE"]),
        ("--workers=0", ["LENO_WORKERS", "1 to 64"]),
        ("--workers=many", ["LENO_WORKERS", "1 to 64"]),
        ("--grace=0", ["LENO_GRACE", "1 to 86400"]),
        ("--status=15021", ["LENO_STATUS", "IP address and a port"]),
        ("--outbound-capture=0.0.0.0:15001", ["LENO_OUTBOUND_CAPTURE", "loopback"]),
        ("--listen-outbound=127.0.0.1:1=orders:80", ["LENO_OUTBOUND_LISTEN", "service.namespace:port"]),
        ("--listen-outbound=127.0.0.1:1=orders.shop.evil:80", ["LENO_OUTBOUND_LISTEN", "service.namespace:port"]),
        ("--listen-inbound=127.0.0.1:1", ["LENO_INBOUND_LISTEN", "listener=application"]),
        ("--listen-inbound=127.0.0.1:1=127.0.0.1:1", ["LENO_INBOUND_LISTEN", "another port"]),
        ("--listen-inbound=0.0.0.0:15021=127.0.0.1:1", ["LENO_INBOUND_LISTEN", "LENO_STATUS"]),
        ("--access-log=101%", ["LENO_ACCESS_LOG", "percentage"]),
        ("--pod-uid=", ["LENO_POD_UID", "value"]),
    ] {
        // The last of two equal flags would be an error of clap's.
        let flag = argument.split('=').next().unwrap();
        let others = MINIMAL.into_iter().filter(|one| one.split('=').next() != Some(flag));
        let all = ["leno-proxy", "run"].into_iter().chain(others).chain([argument]);
        let error = format!("{:#}", parse(all.map(OsString::from)).unwrap_err());
        assert!(says.iter().all(|part| error.contains(part)), "{argument}: {error}");
    }
}

#[test]
fn access_log_is_a_word_or_a_percentage() {
    for (text, mode) in [
        ("off", Mode::Off),
        ("all", Mode::All),
        ("1%", Mode::Sampled(10_000)),
        ("0.5%", Mode::Sampled(5_000)),
        ("100%", Mode::Sampled(1_000_000)),
    ] {
        assert_eq!(run(&[&format!("--access-log={text}")]).unwrap().access_log, mode);
    }
}

#[test]
fn init_prints_applies_or_undoes() {
    let init = |more: &[&str]| parse(["leno-proxy", "init"].iter().chain(more).map(OsString::from));
    let Invocation::Init { rules, action } = init(&["--print", "--skip-outbound-subnets=10.0.0.0/8,fd00::1"]).unwrap()
    else {
        panic!("init");
    };
    assert_eq!(action, InitAction::Print);
    assert_eq!((rules.inbound_port, rules.outbound_port, rules.proxy_uid), (15006, 15001, 15000));
    assert_eq!(rules.skip_outbound_subnets.len(), 2);
    assert!(matches!(init(&["--undo"]), Ok(Invocation::Init { action: InitAction::Undo, .. })));
    assert!(init(&["--inbound-port=70000"]).is_err());
    assert!(init(&["--inbound-port=15001"]).is_err());
}

#[test]
fn the_socket_of_a_running_sidecar_is_found_by_its_volume() {
    let all = ["leno-proxy", "drain", "--volume=/run/leno"];
    let Invocation::Drain { socket } = parse(all.map(OsString::from)).unwrap() else { panic!("drain") };
    assert_eq!(socket, PathBuf::from("/run/leno/admin.sock"));
    let all = ["leno-proxy", "show", "--admin-socket=/tmp/s", "pools"];
    let Invocation::Show { socket, what } = parse(all.map(OsString::from)).unwrap() else { panic!("show") };
    assert_eq!((socket, what.as_str()), (PathBuf::from("/tmp/s"), "pools"));
}

#[test]
fn the_command_line_is_sound_and_every_setting_is_in_the_reference() {
    command().debug_assert();
    let page = reference();
    for var in RUN.iter().chain(INIT) {
        assert!(var.name.starts_with("LENO_"), "{}", var.name);
        assert!(page.contains(&format!("| `{}` | `--{}` |", var.name, var.flag)), "{}", var.name);
    }
}
