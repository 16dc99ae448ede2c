//! `leno diff`: what manifests would change in what sidecars do, field by field and rule by rule; and without any, what has been
//! declared and is not in force yet. It must never change anything.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use leno_control_plane::compile::Setting;
use leno_control_plane::compile::compile;
use leno_control_plane::compile::port_settings;
use leno_control_plane::index::World;
use leno_control_plane::object::Kind;
use leno_control_plane::object::Object;
use leno_control_plane::object::kube::Pod;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::policy::Inbound;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::Resource;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

use crate::live;
use crate::live::State;
use crate::paint::Tone;
use crate::paint::count;
use crate::paint::paint;
use crate::reach::Reach;
use crate::reach::block;
use crate::world;

/// Lines of one resource that are shown; whoever changes more reads the manifests.
const LINES_MAX: usize = 40;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Manifests that would be applied. Without any: what is declared and not in force.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// What changes at one place: a title, and lines that begin with `+`, `-` or `~`.
struct Change {
    title: String,
    lines: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.files.is_empty() {
        return not_live(options);
    }
    let declared = world::declared(&options.files)?;
    for refused in &declared.refused {
        eprintln!("leno: would not be admitted: {refused}");
    }
    let (before, _) = block(async { world::held(&options.reach.cluster()?).await })?;
    let mut after = before.clone();
    declared.apply(&mut after);
    let changes = changes(&before, &after);
    for Change { title, lines } in &changes {
        println!("{}", paint(Tone::Strong, title));
        for line in lines.iter().take(LINES_MAX) {
            let tone = match line.as_bytes().first() {
                Some(b'+') => Tone::Good,
                Some(b'-') => Tone::Bad,
                _ => Tone::Doubt,
            };
            println!("  {}", paint(tone, line));
        }
        if lines.len() > LINES_MAX {
            println!("  and {}", count(lines.len() - LINES_MAX, "more line", "more lines"));
        }
    }
    if changes.is_empty() {
        eprintln!("nothing would change for any sidecar");
        return Ok(if declared.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    Ok(ExitCode::FAILURE)
}

fn not_live(options: &Options) -> anyhow::Result<ExitCode> {
    let all = block(async { live::all(&options.reach.cluster()?, options.reach.namespace.as_deref()).await })?;
    let waiting: Vec<_> = all.iter().filter(|one| one.state != State::Live).collect();
    for one in &waiting {
        println!("{} {}: {}", one.state.as_str(), one.object(), one.message);
    }
    match waiting.len() {
        0 => eprintln!("everything that is declared is in force"),
        some => eprintln!("{} not in force", count(some, "object is", "objects are")),
    }
    Ok(if waiting.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn changes(before: &World, after: &World) -> Vec<Change> {
    let mut changes = Vec::new();
    let views = consumers(after);
    for service in services(before).into_iter().chain(services(after)).collect::<BTreeSet<_>>() {
        for view in [DEFAULT_VIEW].into_iter().chain(views.iter().map(String::as_str)) {
            if view != DEFAULT_VIEW && view == &*service.namespace {
                continue;
            }
            let lines = outbound(before, after, &service, view);
            let whose = if view == DEFAULT_VIEW { String::new() } else { format!(", for clients of namespace {view}") };
            let known =
                changes.iter().any(|one: &Change| one.lines == lines && one.title.ends_with(&service.to_string()));
            if !lines.is_empty() && !known {
                changes.push(Change { title: format!("towards Service {service}{whose}"), lines });
            }
        }
    }
    changes.extend(workloads(before, after));
    let lines = difference(&printed(before, &Key::ProxyConfig), &printed(after, &Key::ProxyConfig));
    changes.extend((!lines.is_empty()).then(|| Change { title: "every sidecar".to_owned(), lines }));
    changes
}

fn services(world: &World) -> BTreeSet<ServiceName> {
    let found = world.objects().filter(|(id, _)| id.kind == Kind::Service).map(|(id, _)| &id.name);
    found.map(|name| ServiceName { namespace: name.namespace.clone(), name: name.name.clone() }).collect()
}

/// Namespaces that hold objects which may be about another namespace's Service.
fn consumers(world: &World) -> BTreeSet<String> {
    let kinds = [Kind::TrafficPolicy, Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute];
    world.objects().filter(|(id, _)| kinds.contains(&id.kind)).map(|(id, _)| id.name.namespace.to_string()).collect()
}

fn outbound(before: &World, after: &World, service: &ServiceName, view: &str) -> Vec<String> {
    let (old, new) = (ports(before, service, view), ports(after, service, view));
    if old == new {
        return Vec::new();
    }
    let own = (view != DEFAULT_VIEW).then_some(view);
    let mut lines = Vec::new();
    let numbers: BTreeSet<u16> = old.keys().chain(new.keys()).copied().collect();
    for number in numbers {
        let target = ServicePort { service: service.clone(), port: number };
        let settings = |world: &World| port_settings(world, &target, own).unwrap_or_default();
        let port = format!("port {number}");
        match (old.get(&number), new.get(&number)) {
            (None, Some(_)) => lines.push(format!("+ {port}")),
            (Some(_), None) => lines.push(format!("- {port}")),
            (Some(old), Some(new)) => {
                lines.extend(fields(&port, &settings(before), &settings(after)));
                lines.extend(difference(&rules(old), &rules(new)));
            }
            (None, None) => {}
        }
    }
    if lines.is_empty() {
        // Something that is told elsewhere, such as a rule's own policy.
        lines = difference(&format!("{old:#?}"), &format!("{new:#?}"));
    }
    lines
}

fn ports(world: &World, service: &ServiceName, view: &str) -> BTreeMap<u16, OutboundPort> {
    let key = Key::Outbound { service: service.clone(), view: view.into() };
    match compile(world, &key).resource {
        Some(Resource::Outbound(outbound)) => outbound.ports.into_iter().map(|port| (port.port, port)).collect(),
        _ => BTreeMap::new(),
    }
}

fn fields(port: &str, before: &[Setting], after: &[Setting]) -> Vec<String> {
    let shown = |one: &Setting| match (&one.value, &one.from) {
        (Some(value), Some(from)) => format!("{value} ({from})"),
        (Some(value), None) => value.to_string(),
        (None, _) => "default".to_owned(),
    };
    let pairs = before.iter().zip(after).filter(|(old, new)| old.value != new.value);
    pairs.map(|(old, new)| format!("~ {port} {}: {} -> {}", new.field.path, shown(old), shown(new))).collect()
}

/// A line a rule: which requests, and where they go.
fn rules(port: &OutboundPort) -> String {
    let mut lines = Vec::new();
    for route in &port.routes {
        for rule in &route.rules {
            let backends = rule.backends.iter().map(|one| {
                let lost = if one.resolved { "" } else { " (does not exist)" };
                format!("{} weight {}{lost}", one.target, one.weight)
            });
            let backends = backends.collect::<Vec<_>>().join(", ");
            lines.push(format!(
                "rule {} of {}: {} match(es) -> {backends}",
                rule.name,
                route.origin,
                rule.matches.len()
            ));
        }
    }
    lines.join("\n")
}

/// One of each set of pods that change in the same way.
fn workloads(before: &World, after: &World) -> Vec<Change> {
    let mut alike: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (id, object) in after.objects() {
        let Object::Pod(pod) = &**object else { continue };
        let lines = arriving(before, after, pod);
        if !lines.is_empty() {
            alike.entry(lines).or_default().push(id.name.to_string());
        }
    }
    let change = |(lines, pods): (Vec<String>, Vec<String>)| {
        let more = if pods.len() > 1 { format!(" and {} more", pods.len() - 1) } else { String::new() };
        Change { title: format!("arriving at Pod {}{more}", pods[0]), lines }
    };
    alike.into_iter().map(change).collect()
}

fn arriving(before: &World, after: &World, pod: &Pod) -> Vec<String> {
    let key = Key::Inbound(pod.metadata.uid.as_str().into());
    let inbound = |world: &World| match compile(world, &key).resource {
        Some(Resource::Inbound(inbound)) => Some(inbound),
        _ => None,
    };
    match (inbound(before), inbound(after)) {
        (None, Some(new)) => vec![format!("+ it joins the mesh as {}", new.identity)],
        (Some(_), None) => vec!["- it leaves the mesh".to_owned()],
        (Some(old), Some(new)) => difference(&ports_said(&old), &ports_said(&new)),
        (None, None) => Vec::new(),
    }
}

/// A line for each value of each port.
fn ports_said(inbound: &Inbound) -> String {
    let named = inbound.ports.iter().map(|port| (format!("port {}", port.port), port));
    let all = named.chain([("any other port".to_owned(), &inbound.other)]);
    let lines =
        all.flat_map(|(name, port)| flat(&format!("{port:#?}")).into_iter().map(move |line| format!("{name} {line}")));
    lines.collect::<Vec<_>>().join("\n")
}

/// What Debug prints over many lines, as one `path: value` for each value. What is empty is left out.
fn flat(printed: &str) -> Vec<String> {
    let (mut path, mut lines): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for line in printed.lines().skip(1).map(str::trim) {
        let (name, value) = line.split_once(": ").unwrap_or(("", line));
        if line.starts_with(['}', ']', ')']) {
            path.pop();
        } else if line.ends_with(['{', '[', '(']) {
            path.push(name);
        } else if !["None,", "[],"].contains(&value) {
            let names = path.iter().chain([&name]).filter(|name| !name.is_empty());
            let names = names.copied().collect::<Vec<_>>().join(".");
            lines.push(format!("{names}: {}", value.trim_end_matches(',')));
        }
    }
    lines
}

fn printed(world: &World, key: &Key) -> String {
    compile(world, key).resource.map(|resource| format!("{resource:#?}")).unwrap_or_default()
}

/// Lines that only one of the two has, in the order of the longer common story.
fn difference(before: &str, after: &str) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    new.iter().for_each(|line| *left.entry(line).or_default() += 1);
    let mut lines = Vec::new();
    for line in old {
        match left.get_mut(line).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => lines.push(format!("- {}", line.trim())),
        }
    }
    for line in new {
        if let Some(count) = left.get_mut(line).filter(|count| **count > 0) {
            *count -= 1;
            lines.push(format!("+ {}", line.trim()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(text: &str) -> World {
        let declared = world::said(&[("manifests.yaml".to_owned(), text.to_owned())]);
        assert!(declared.refused.is_empty(), "{:?}", declared.refused);
        let mut world = World::default();
        declared.apply(&mut world);
        world
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\nspec: {selector: {app: orders}, ports: [{port: 80}]}\n";

    #[test]
    fn a_policy_shows_as_the_fields_that_it_changes() {
        let policy = "---\napiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: slow, namespace: shop}\nspec: {targetRefs: [{kind: Service, name: orders}], timeouts: {request: 3s}}\n";
        let (before, after) = (world(SERVICE), world(&format!("{SERVICE}{policy}")));
        let changes = changes(&before, &after);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].title, "towards Service shop/orders");
        assert_eq!(changes[0].lines, ["~ port 80 timeouts.request: default -> \"3s\" (TrafficPolicy shop/slow)"]);
        assert!(super::changes(&before, &before).is_empty());
    }

    #[test]
    fn a_rule_of_access_shows_at_the_ports_that_it_guards() {
        let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: orders-0, namespace: shop, uid: u, annotations: {leno.dev/inject: enabled}}\nspec: {containers: [{name: app, image: none, ports: [{containerPort: 8080}]}]}\nstatus: {phase: Running, podIP: 127.0.0.1, podIPs: [{ip: 127.0.0.1}], conditions: [{type: Ready, status: \"True\"}]}\n";
        let policy = "---\napiVersion: policy.leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: nobody, namespace: shop}\nspec: {action: Deny, rules: [{sources: [{namespaces: [other]}], ports: [8080]}]}\n";
        let without = world(SERVICE);
        let (before, after) = (world(&format!("{SERVICE}{pod}")), world(&format!("{SERVICE}{pod}{policy}")));
        let changes = changes(&before, &after);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].title, "arriving at Pod shop/orders-0");
        let lines = changes[0].lines.join("\n");
        assert!(lines.contains("+ port 8080 access.deny.origin: \"shop/nobody\""), "{lines}");
        assert!(lines.lines().all(|line| line.starts_with("+ port 8080 access.")), "{lines}");
        let joins = super::changes(&without, &before);
        assert!(
            joins.iter().any(|one| one.lines == ["+ it joins the mesh as spiffe://cluster.local/ns/shop/sa/default"])
        );
    }

    #[test]
    fn only_the_lines_that_differ_are_told() {
        assert_eq!(difference("a\nb\nc", "a\nx\nc"), ["- b", "+ x"]);
        assert_eq!(difference("a", "a\nb"), ["+ b"]);
        assert_eq!(difference("a", "a"), [""; 0]);
    }
}
