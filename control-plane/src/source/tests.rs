use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use super::*;
use crate::object::Kind;

/// A folder with a clock of its own; gone with the test.
struct Folder {
    root: PathBuf,
    now: SystemTime,
}

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("leno-source-{}-{number}", std::process::id()));
        // A process of the same number that was killed may have left one.
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("in")).unwrap();
        Folder { root, now: SystemTime::now() }
    }

    fn open(&self) -> Directory {
        Directory::open(self.root.join("in"), Some(self.root.join("state"))).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.join("in").join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.root.join("in").join(name)).unwrap();
    }

    fn look(&mut self, directory: &mut Directory) -> Option<(Vec<String>, Vec<String>)> {
        self.now += POLL;
        directory.look(self.now).map(|batch| (batch.events.iter().map(told).collect(), refused(&batch)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Applied(object) => format!("+{} g{}", object.id(), object.meta().generation),
        Event::Deleted(id) => format!("-{id}"),
    }
}

fn refused(batch: &Batch) -> Vec<String> {
    batch.refused.iter().map(ToString::to_string).collect()
}

fn policy(name: &str, request: &str) -> String {
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: orders}}]\n  timeouts: {{request: {request}}}\n"
    )
}

#[test]
fn a_change_is_told_once_and_counts_as_a_generation() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g1"]);
    assert!(folder.look(&mut directory).is_none());
    folder.write("a.yaml", &policy("a", "2s"));
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g2"]);
    assert!(folder.look(&mut directory).is_none());
}

#[test]
fn a_spoilt_document_leaves_its_last_admitted_version_and_its_neighbours() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "1s"), policy("b", "1s")));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "5"), policy("b", "3s")));
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/b g2"]);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("a.yaml:6: TrafficPolicy shop/a: spec.timeouts.request: "), "{refused:?}");
    assert!(refused[0].ends_with("(the version admitted before stays in force)"), "{refused:?}");
    // Mended: the message goes.
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "1s"), policy("b", "3s")));
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
}

#[test]
fn text_that_is_no_yaml_takes_nothing_out_of_force() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    for spoilt in ["kind: [", "just text", "\u{1}", "kind: TrafficPolicy\n"] {
        folder.write("a.yaml", spoilt);
        let (events, refused) = folder.look(&mut directory).unwrap();
        assert_eq!((events.len(), refused.len()), (0, 1), "{spoilt}");
        assert!(folder.look(&mut directory).is_none(), "{spoilt}");
    }
    fs::write(folder.root.join("in/a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert_eq!(folder.look(&mut directory).unwrap().0, Vec::<String>::new());
}

#[test]
fn what_is_gone_is_deleted_at_the_second_look_so_that_a_replaced_file_is_no_deletion() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.remove("a.yaml");
    assert!(folder.look(&mut directory).is_none());
    folder.write("a.yaml", &policy("a", "1s"));
    assert!(folder.look(&mut directory).is_none());
    assert!(folder.look(&mut directory).is_none());
    folder.remove("a.yaml");
    assert!(folder.look(&mut directory).is_none());
    assert_eq!(folder.look(&mut directory).unwrap().0, ["-TrafficPolicy shop/a"]);
}

#[test]
fn the_last_admitted_version_survives_a_restart_beside_a_spoilt_file() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("---\n# a comment\n{}", policy("a", "1s")));
    folder.write("b.yaml", &policy("b", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    drop(directory);
    folder.write("a.yaml", &policy("a", "nonsense"));
    folder.remove("b.yaml");
    let mut directory = folder.open();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/a g1"]);
    assert_eq!(refused.len(), 1);
    folder.write("a.yaml", &policy("a", "1s"));
    folder.look(&mut directory);
    assert!(directory.admitted.values().all(|one| one.object.id().kind == Kind::TrafficPolicy));
}

#[test]
fn a_restart_without_changes_counts_no_generation() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("---\n{}\n\n---\n{}", policy("a", "1s"), policy("b", "1s")));
    let mut directory = folder.open();
    folder.look(&mut directory);
    drop(directory);
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g1", "+TrafficPolicy shop/b g1"]);
}

#[test]
fn a_folder_that_cannot_be_read_deletes_nothing() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    fs::rename(folder.root.join("in"), folder.root.join("away")).unwrap();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!((events.len(), refused.len()), (0, 1));
    assert!(folder.look(&mut directory).is_none());
    fs::rename(folder.root.join("away"), folder.root.join("in")).unwrap();
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
}

#[test]
fn a_huge_file_is_refused_unread() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &" ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1));
    folder.write("b.yaml", &policy("b", "1s"));
    let mut directory = folder.open();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/b g1"]);
    assert!(refused[0].contains("larger than"), "{refused:?}");
}

#[test]
fn the_trust_domain_cannot_change() {
    let mesh = |domain: &str| {
        format!(
            "apiVersion: policy.leno.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{trustDomain: {domain}}}\n"
        )
    };
    let mut folder = Folder::new();
    folder.write("mesh.yaml", &mesh("one.example"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.write("mesh.yaml", &mesh("two.example"));
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!((events.len(), refused.len()), (0, 1));
    assert!(refused[0].contains("spec.trustDomain"), "{refused:?}");
}

#[test]
fn other_controllers_kinds_and_settled_files_are_passed_over() {
    let mut folder = Folder::new();
    folder.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n# nothing\n---\n");
    folder.write(".hidden.yaml", "kind: [");
    folder.write("notes.txt", "kind: [");
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
    folder.now += Duration::from_secs(10);
    assert!(folder.look(&mut directory).is_none());
    assert!(directory.files.values().all(|file| file.settled));
}

#[test]
fn a_message_names_the_line_of_the_field_that_is_wrong() {
    let head = "# a comment\n---\napiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n";
    let target = "  targetRefs: [{kind: Service, name: orders}]\n";
    let cases = [
        (
            format!("{head}{target}  timeouts:\n    perTry: 1s\n    request: 5\n"),
            "a.yaml:10: TrafficPolicy shop/a: spec.timeouts.request: ",
        ),
        (
            format!("{head}{target}  retries:\n    attempt: 1\n"),
            "a.yaml:9: TrafficPolicy shop/a: spec.retries.attempt: ",
        ),
        (
            format!("{head}  timeouts: {{request: 1s}}\n  targetRefs:\n  - kind: Service\n    nme: orders\n"),
            "a.yaml:8: TrafficPolicy shop/a: spec.targetRefs: ",
        ),
        (
            format!("{head}  targetRefs:\n  - {{kind: Service, name: a}}\n  - kind: Gateway\n    name: b\n"),
            "a.yaml:9: TrafficPolicy shop/a: spec.targetRefs[1]: ",
        ),
        (format!("{head}{target}  strategy: PatchOverrides\n"), "a.yaml:8: TrafficPolicy shop/a: spec.strategy: "),
        (format!("{head}{target}---\n{}", policy("a", "1s")), "a.yaml:11: TrafficPolicy shop/a: metadata.name: "),
    ];
    for (text, expected) in cases {
        let mut folder = Folder::new();
        folder.write("a.yaml", &text);
        let (_, refused) = folder.look(&mut folder.open()).unwrap();
        assert!(refused[0].starts_with(expected), "{text}{refused:?}");
    }
}

#[test]
fn an_item_of_a_list_is_named_by_the_line_where_it_begins() {
    let mut folder = Folder::new();
    let item = |name: &str, time: &str| {
        let text = policy(name, time).replace('\n', "\n  ");
        format!("- {}\n", text.trim_end())
    };
    folder.write("a.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{}{}", item("a", "1s"), item("b", "5")));
    let (events, refused) = folder.look(&mut folder.open()).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/a g1"]);
    assert!(refused[0].starts_with("a.yaml:10: TrafficPolicy shop/b: spec.timeouts.request: "), "{refused:?}");
}

/// One document that is wrong in one way, and whether its object can be told.
fn spoilt(way: usize, number: usize) -> (String, bool) {
    let ours = |kind: &str, spec: &str| {
        format!(
            "apiVersion: policy.leno.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: bad-{number}, namespace: shop}}\nspec:\n  {spec}\n"
        )
    };
    let traffic =
        |body: &str| ours("TrafficPolicy", &format!("targetRefs: [{{kind: Service, name: orders}}]\n  {body}"));
    let route = |rule: &str| {
        let text = ours("HTTPRoute", &format!("parentRefs: [{{kind: Service, name: orders}}]\n  rules: [{rule}]"));
        text.replace("policy.leno.dev/v1alpha1", "gateway.networking.k8s.io/v1")
    };
    let laughs: String =
        (1..12).map(|n| format!("  l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 9].join(", "))).collect();
    let told = vec![
        traffic("timeouts: {request: 5}"),
        traffic("timeouts: {requests: 5s}"),
        traffic("timeouts: [1, 2]"),
        traffic("timeouts: {perTry: 10s, request: 1s}"),
        traffic("connection: {maxConnections: 0}"),
        traffic("connection: {maxConnections: 99999999999999999999}"),
        traffic("connection: {idleTimeout: 1h, maxLifetime: 1m}"),
        traffic("retries: {methods: Any}"),
        traffic("circuitBreaker: {service: {trip: {ratio: {}, count: {}}}}"),
        traffic("loadBalancing: {algorithm: Fastest}"),
        traffic(&format!("loadBalancing: {{algorithm: ConsistentHash, hash: {{header: {}}}}}", "x".repeat(300_000))),
        ours("TrafficPolicy", "timeouts: {request: 1s}"),
        ours("InboundPolicy", "headers: {maxCount: 1}"),
        ours("AccessPolicy", "action: Refuse"),
        ours("AccessPolicy", "rules: [{sources: [{cidrs: [nowhere]}]}]"),
        ours("AccessPolicy", "rules: [{pathz: []}]"),
        ours("EgressHost", "hostnames: ['not a name']\n  ports: [{port: 443}]"),
        route("{matches: [{path: {type: RegularExpression, value: '('}}]}"),
        route("{timeouts: {request: soon}}"),
        route("{backendRefs: [{name: orders, port: 80, weight: 4000000000}]}"),
    ];
    let untold = [
        traffic("connection: &a {http2: *a}"),
        traffic(&format!("connection: {}1{}", "{a: ".repeat(2000), "}".repeat(2000))),
        traffic(&format!("x: &l0 lol\n{laughs}")),
        traffic("timeouts: {request: 1s}\n  timeouts: {request: 2s}"),
    ];
    let ways = told.len();
    match told.into_iter().nth(way % (ways + untold.len())) {
        Some(text) => (text, true),
        None => (untold[way % (ways + untold.len()) - ways].clone(), false),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn each_bad_object_has_one_message_and_disturbs_nothing_else(
        ways in proptest::collection::vec(0_usize..24, 1..8),
        places in proptest::collection::vec(proptest::prelude::any::<(bool, u8)>(), 8),
    ) {
        let mut files = [String::new(), String::new()];
        let mut expected = Vec::new();
        let mut good = Vec::new();
        for (number, (way, (second, before))) in ways.iter().zip(&places).enumerate() {
            let file = &mut files[usize::from(*second)];
            if before % 2 == 0 {
                file.push_str(&format!("---\n{}", policy(&format!("good-{number}"), "1s")));
                good.push(format!("+TrafficPolicy shop/good-{number} g1"));
            }
            let (text, told) = spoilt(*way, number);
            file.push_str(&format!("---\n{text}"));
            expected.push(told.then(|| format!("shop/bad-{number}")));
        }
        let mut folder = Folder::new();
        folder.write("a.yaml", &files[0]);
        folder.write("b.yaml", &files[1]);
        let mut directory = folder.open();
        folder.now += POLL;
        let batch = directory.look(folder.now).unwrap();
        let events: BTreeSet<String> = batch.events.iter().map(told).collect();
        proptest::prop_assert_eq!(events, good.into_iter().collect::<BTreeSet<_>>());
        proptest::prop_assert_eq!(batch.refused.len(), expected.len(), "{:?}", refused(&batch));
        for name in expected.iter().flatten() {
            let named = |one: &&Refused| one.object.as_ref().is_some_and(|object| object.ends_with(name.as_str()));
            proptest::prop_assert_eq!(batch.refused.iter().filter(named).count(), 1, "{}", name);
        }
        for one in batch.refused.iter() {
            proptest::prop_assert!(one.line.is_some() && !one.message.is_empty(), "{}", one);
            proptest::prop_assert!(one.to_string().len() < 2000, "{} bytes of message", one.to_string().len());
        }
    }
}
