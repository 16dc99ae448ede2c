//! Who may call a port: AccessPolicies add up (CONTRACTS section 4). It never merges two policies and never lets a broken one open
//! anything: what an Allow cannot express grants nothing, what a Deny cannot express denies all that is left of it.

use std::sync::Arc;

use ipnet::IpNet;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Access;
use leno_proto::policy::AccessRule;
use leno_proto::policy::DefaultAccess;
use leno_proto::policy::Source;
use leno_proto::policy::SpiffeMatch;

use crate::compile::Lens;
use crate::compile::inbound;
use crate::compile::mesh;
use crate::object::Kind;
use crate::object::Object;
use crate::object::kube::Pod;
use crate::object::ours;
use crate::object::ours::AccessPolicy;
use crate::object::ours::AccessSource;
use crate::object::ours::Action;
use crate::object::ours::Profile;
use crate::object::ours::cidr;
use crate::object::ours::spiffe_match;

/// `port` 0: ports that nobody declared.
pub(super) fn of_port(lens: &Lens<'_>, pod: &Pod, port: u16) -> Access {
    let mut access = Access { default: default_access(lens), ..Access::default() };
    for object in inbound::policies(lens, pod, Kind::AccessPolicy) {
        let Object::AccessPolicy(policy) = object else { continue };
        if !policy.spec.workloads.select(&pod.metadata.labels, port) {
            continue;
        }
        lens.uses(&object.id());
        let action = policy.spec.action;
        access.restricted |= action == Action::Allow;
        let rules = policy.spec.rules.iter().filter(|rule| rule.ports.is_empty() || rule.ports.contains(&port));
        let compiled = rules.filter_map(|rule| access_rule(lens, policy, rule));
        match action {
            Action::Allow => access.allow.extend(compiled),
            Action::Deny => access.deny.extend(compiled),
            Action::Audit => access.audit.extend(compiled),
        }
    }
    access
}

fn default_access(lens: &Lens<'_>) -> DefaultAccess {
    let Some(mesh) = lens.mesh() else { return DefaultAccess::Allow };
    match (mesh.spec.default_access, mesh.spec.profile) {
        (Some(ours::DefaultAccess::Allow), _) | (None, Profile::Minimal | Profile::Recommended) => DefaultAccess::Allow,
        (Some(ours::DefaultAccess::Deny), _) | (None, Profile::Strict) => DefaultAccess::Deny,
    }
}

/// `None`: an Allow or Audit rule whose sources are all broken, which so matches no one.
fn access_rule(lens: &Lens<'_>, policy: &AccessPolicy, rule: &ours::AccessRule) -> Option<AccessRule> {
    let deny = policy.spec.action == Action::Deny;
    let sources = match &rule.sources {
        None => None,
        Some(all) => {
            let read: Vec<Option<Source>> =
                all.iter().map(|one| source(lens, &policy.metadata.namespace, one, deny)).collect();
            let broken = read.iter().any(Option::is_none);
            let good: Vec<Source> = read.into_iter().flatten().collect();
            if good.is_empty() && broken {
                return None;
            }
            Some(good)
        }
    };
    Some(AccessRule {
        origin: policy.metadata.key().to_string().into(),
        sources,
        methods: rule.methods.iter().map(|m| m.as_str().into()).collect(),
        paths: rule.paths.iter().map(|p| p.as_str().into()).collect(),
    })
}

/// A term that cannot be read: an Allow's source then matches no one; a Deny's drops the term and so denies more, not less.
fn source(lens: &Lens<'_>, namespace: &str, from: &AccessSource, deny: bool) -> Option<Source> {
    let mut spiffe = Vec::new();
    let mut broken = false;
    for text in &from.spiffe {
        match spiffe_match(text) {
            Some(one) => spiffe.push(one),
            None => broken = true,
        }
    }
    if let Some(account) = &from.service_account {
        let namespace = account.namespace.as_deref().unwrap_or(namespace);
        match SpiffeId::workload(&mesh::trust_domain(lens), namespace, &account.name) {
            Ok(id) => spiffe.push(SpiffeMatch::Exact(id)),
            Err(_) => broken = true,
        }
    }
    let read: Vec<Option<IpNet>> = from.cidrs.iter().map(|text| cidr(text)).collect();
    broken |= read.iter().any(Option::is_none);
    if broken && !deny {
        return None;
    }
    let namespaces = from.namespaces.iter().map(|n| Arc::from(n.as_str())).collect();
    Some(Source { spiffe, namespaces, cidrs: read.into_iter().flatten().collect() })
}
