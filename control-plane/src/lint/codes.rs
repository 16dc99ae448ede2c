//! Every code that `leno lint`, `leno check` and the Warnings of objects speak in, with what a person needs to know of it. The
//! pages under docs/codes come from this table alone; a code that is not here must never be emitted.

use std::fmt::Write as _;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It works, and not as its author means.
    Warning,
    /// It is not in force, or something does not work.
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

#[derive(Debug)]
pub struct Code {
    pub name: &'static str,
    pub level: Level,
    /// In one line.
    pub title: &'static str,
    /// What happens, and to whom.
    pub why: &'static str,
    pub remedy: &'static str,
}

/// By its name, however it is written.
pub fn named(name: &str) -> Option<&'static Code> {
    all().find(|code| code.name.eq_ignore_ascii_case(name))
}

/// Of lint first, each part in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Code> {
    OBJECTS.iter().chain(&POLICIES).chain(&CLUSTER)
}

/// The code for the reason of a condition that says no.
pub fn of_reason(reason: &str) -> &'static str {
    match reason {
        "Conflicted" => "CONFLICTED",
        "TargetNotFound" => "TARGET_NOT_FOUND",
        "SectionNotFound" => "SECTION_NOT_FOUND",
        "RefNotPermitted" => "REF_NOT_PERMITTED",
        "NoMatchingParent" => "NO_MATCHING_PARENT",
        "BackendNotFound" | "InvalidKind" => "BACKEND_NOT_FOUND",
        "UnsupportedValue" | "IncompatibleFilters" => "UNSUPPORTED_VALUE",
        _ => "INVALID",
    }
}

impl Code {
    /// The page under docs/codes.
    pub fn page(&self) -> String {
        let Code { name, level, title, why, remedy } = self;
        let level = level.as_str();
        format!("# {name}\n\n**{title}** ({level})\n\n{why}\n\n## Remedy\n\n{remedy}\n")
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let Code { name, level, title, why, remedy } = self;
        let level = level.as_str();
        format!("{name} ({level})\n{title}\n\n{}\n\nRemedy: {}\n", wrapped(why, 96), wrapped(remedy, 96))
    }
}

/// The page that leads to all others.
pub fn contents() -> String {
    let mut page = String::from(
        "# Codes\n\nWhat `leno lint`, `leno check` and the `Warnings` condition of an object speak in. `leno lint --explain CODE` says the same in a terminal.\n",
    );
    for (title, codes) in [("Objects", &OBJECTS[..]), ("Policies", &POLICIES), ("Cluster and mesh", &CLUSTER)] {
        let _ = writeln!(page, "\n## {title}\n\n| code | level | what it says |\n|---|---|---|");
        for Code { name, level, title, .. } in codes {
            let _ = writeln!(page, "| [{name}]({name}.md) | {} | {title} |", level.as_str());
        }
    }
    page
}

/// Lines of at most so many characters, broken at spaces.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

const fn error(name: &'static str, title: &'static str, why: &'static str, remedy: &'static str) -> Code {
    Code { name, level: Level::Error, title, why, remedy }
}

const fn warning(name: &'static str, title: &'static str, why: &'static str, remedy: &'static str) -> Code {
    Code { name, level: Level::Warning, title, why, remedy }
}

/// What is wrong with one object by itself or with what it refers to.
static OBJECTS: [Code; 14] = [
    error(
        "INVALID",
        "The object is not valid",
        "A field is misspelt, out of its bounds, or contradicts another field of the same object. Kubernetes refuses it; where it is stored all the same (an older definition, a validator that did not answer) it is judged alone: an invalid TrafficPolicy or InboundPolicy is absent, an invalid Allow grants nothing and still closes its ports to everyone else, an invalid Deny denies what can be read of it.",
        "The message names the field, its value and what to write instead. `kubectl explain trafficpolicy.spec` shows all fields.",
    ),
    error(
        "CONFLICTED",
        "An older policy sets the same fields for the same target",
        "Two policies on one target are both in force as long as they set different fields. Where they set the same one, the older wins and the newer is not in force at all, so that adding an object never changes silently what another one said.",
        "Merge the two objects, remove the field from one of them, or attach one to something more specific (a port, a route, a rule).",
    ),
    error(
        "TARGET_NOT_FOUND",
        "The policy targets what does not exist",
        "`targetRefs` names a Service, EgressHost or route that is not there, so the policy applies to nothing.",
        "Correct the name, or create the target; the policy goes into force by itself when it appears.",
    ),
    error(
        "SECTION_NOT_FOUND",
        "The policy targets a port or rule that does not exist",
        "`sectionName` is the name (or the number) of a Service's port, or the name of a route's rule. None of that name is there.",
        "Compare it with `spec.ports[].name` of the Service or `spec.rules[].name` of the route.",
    ),
    error(
        "REF_NOT_PERMITTED",
        "The policy may not target this",
        "A policy for the whole mesh belongs into the control plane's namespace, a policy for a namespace into that namespace: otherwise any team could change the traffic of every other.",
        "Move the object into the namespace that the message names, or target a Service: a policy on another namespace's Service applies to the clients in your own.",
    ),
    error(
        "NO_MATCHING_PARENT",
        "The route's parent Service or port does not exist",
        "A route with a parent that is not there routes nothing.",
        "Correct `parentRefs`: the Service's name, its namespace, and `port` where it is set.",
    ),
    error(
        "BACKEND_NOT_FOUND",
        "A backend of the route does not exist",
        "The share of requests that would go to this backend is answered with 500, as Gateway API demands: requests do not drift to other backends by accident.",
        "Correct `backendRefs`: kind Service, its name, namespace and port.",
    ),
    error(
        "UNSUPPORTED_VALUE",
        "A filter of the route is not supported",
        "Requests that take a rule with an unknown filter are answered with 500 rather than sent without it: the filter may be what protects the backend.",
        "Remove the filter, or use one of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite and RequestMirror.",
    ),
    error(
        "INJECTION_REFUSED",
        "The pods of this workload cannot have a sidecar",
        "Something asks for a sidecar and something else makes it impossible, or an annotation of `leno.dev/` is misspelt. The injector refuses such pods rather than let them run without what was asked for.",
        "The message says which field to change. To run without a sidecar on purpose, label the pods `leno.dev/inject: disabled`.",
    ),
    warning(
        "NO_WORKLOADS",
        "The policy selects no pod",
        "An InboundPolicy or AccessPolicy whose selector matches nothing protects nothing. Often a label was renamed.",
        "Compare `workloads.selector.matchLabels` with the labels of the pods (not of the Deployment): `kubectl get pods --show-labels`.",
    ),
    warning(
        "UNSUPPORTED_FIELD",
        "No proxy of this release acts on the field",
        "The field is accepted, so that one set of manifests serves several releases, and it changes nothing yet.",
        "Remove it, or do not rely on it. After an upgrade `leno status` says in how many proxies it is in force.",
    ),
    warning(
        "UNSUPPORTED_KIND",
        "No proxy of this release acts on objects of this kind",
        "An EgressHost is accepted and validated, so that one set of manifests serves several releases. Nothing follows from it yet: calls out of the mesh go where the application says, or nowhere, as `Mesh.spec.outbound` has it. A TrafficPolicy that targets an EgressHost has no effect either.",
        "Do not rely on it. To forbid what is not in the mesh set `outbound.unknown: Deny` in the Mesh.",
    ),
    warning(
        "SERVICE_FIELD_NOT_ENFORCED",
        "Sidecars do not enforce a field of the Service as kube-proxy would",
        "Calls between sidecars do not pass kube-proxy, so sidecars do its part: `internalTrafficPolicy`, `trafficDistribution`, `sessionAffinity: ClientIP` and `publishNotReadyAddresses` hold. The message names what does not.",
        "The message says what to write instead; docs/kubernetes-services.md lists what holds.",
    ),
    warning(
        "NAMESPACE_ANNOTATION",
        "A namespace asks for sidecars by annotation, which nobody reads",
        "Kubernetes lets webhooks select namespaces by label only. With the annotation alone no pod of the namespace gets a sidecar.",
        "`kubectl label namespace NAME leno.dev/inject=enabled`",
    ),
];

/// What holds together field by field and still does not do what its author means.
static POLICIES: [Code; 23] = [
    warning(
        "NO_EFFECT_ON_ROUTE",
        "The field has no effect on a route",
        "A TrafficPolicy on a route or on one of its rules decides about `timeouts` and `retries`; on a TCPRoute about `timeouts.streamIdle`, `timeouts.maxStreamDuration`, `retries.attempts` and `retries.differentEndpoint`. Everything else is one for all requests to a Service, whichever route they take: its connections, balancing, breakers, concurrency and rate limit, and `retries.budget`, so that no number of routes together can add more retries than the Service was meant to get.",
        "Put the field on a TrafficPolicy that targets the Service that the route leads to (its `backendRefs`), or the port of it. `leno explain POD SERVICE PATH` shows what is in force, and who says it.",
    ),
    warning(
        "NO_EFFECT_ON_BYTES",
        "The field has no effect on a port that carries bytes",
        "Every port that the policy targets is declared as opaque TCP or as the application's own TLS, by its `appProtocol` or its name. There are no requests on it that a sidecar could time, count, limit or send again: request timeouts, most of `retries`, `concurrency`, `rateLimit` and the breaker of the Service do nothing. Connections are pooled, balanced, timed and their endpoints left out as ever.",
        "Remove the field, or declare what the port speaks: `appProtocol: http`, or a name such as `http-web`.",
    ),
    warning(
        "PER_TRY_ABOVE_REQUEST",
        "One try may take longer than the whole request",
        "`timeouts.request` bounds all tries together, so `timeouts.perTry` never applies and a slow first try leaves no time for a second.",
        "Shorten `timeouts.perTry`, or lengthen `timeouts.request`.",
    ),
    warning(
        "RETRIES_CUT_SHORT",
        "The request ends before all of its tries could run",
        "`timeouts.perTry` times the number of tries is more than `timeouts.request`. The last tries are cut, or never begin: the retries look configured and do not help when a backend is slow.",
        "Shorten `timeouts.perTry`, lower `retries.attempts`, or lengthen `timeouts.request`.",
    ),
    warning(
        "FIRST_BYTE_NEVER_APPLIES",
        "The request ends before the first byte is due",
        "`timeouts.firstByte` is not below `timeouts.request`, so it can never be what ends a request.",
        "Shorten `timeouts.firstByte`, or remove it.",
    ),
    warning(
        "STREAM_ENDS_BEFORE_REQUEST",
        "A stream may end before its head is due",
        "`timeouts.maxStreamDuration` counts from the request's start to the last byte, `timeouts.request` to the answer's head. The first is below the second.",
        "Lengthen `timeouts.maxStreamDuration`.",
    ),
    warning(
        "CONNECT_TAKES_ALL",
        "One connect may take all of the request's time",
        "When an endpoint does not answer at all, the whole `timeouts.request` goes by in the first connect, and no other endpoint is tried.",
        "Keep `connection.connectTimeout` below half of `timeouts.request`.",
    ),
    warning(
        "QUEUE_TAKES_ALL",
        "Waiting for a connection may take all of the request's time",
        "A request that waited for `connection.acquireTimeout` has no time left to be answered; the backend then works for callers that have given up.",
        "Shorten `connection.acquireTimeout`.",
    ),
    warning(
        "GRPC_NEVER_RETRIED",
        "gRPC calls are never retried under this policy",
        "Every gRPC call is a POST, and by default only idempotent methods are retried after the request may have been processed.",
        "Set `retries.methods: Any` with `acknowledgeNonIdempotent: true` for calls that may run twice, or remove `retries.retryOn`.",
    ),
    warning(
        "NO_RETRY_BUDGET",
        "No retry is ever paid for",
        "Retries come out of a budget, a share of the requests plus a few a second. Both are 0.",
        "Raise `retries.budget.percent` or `retries.budget.minPerSecond`, or say `retries.attempts: 0`.",
    ),
    warning(
        "LOOSE_RETRY_BUDGET",
        "Retries may add half as much load again to a failing backend",
        "A backend that fails because it is overloaded is kept down by retries: that is how a short trouble becomes an outage.",
        "Keep `retries.budget.percent` at 20, or at most at 50.",
    ),
    warning(
        "BACKOFF_ABOVE_TRY",
        "The pause between tries is longer than a try",
        "Most of the request's time goes into waiting.",
        "Shorten `retries.backoff.base`.",
    ),
    warning(
        "KEEPALIVE_NEVER_SENT",
        "Idle connections are closed before the first keepalive probe",
        "`connection.keepalive.idle` is not below `connection.idleTimeout`, so a peer that vanished is not found by probes.",
        "Set `connection.keepalive.idle` below `connection.idleTimeout`.",
    ),
    warning(
        "IDLE_NEVER_APPLIES",
        "Connections end of age before they may be idle that long",
        "`connection.idleTimeout` is not below `connection.maxLifetime`.",
        "Shorten `connection.idleTimeout`, or lengthen `connection.maxLifetime`.",
    ),
    warning(
        "SERVER_CLOSES_FIRST",
        "The server closes idle connections before the client does",
        "Whoever sends a request into a connection that the other side is closing at that moment loses it: the classic 503 after a quiet minute. Leno recognises the provable cases and sends them again; a POST whose fate is unknown is not repeated.",
        "Keep the client's `connection.idleTimeout` (5 minutes by default) below the server's InboundPolicy `timeouts.idle` (15 minutes by default), and that below the application's own keep-alive timeout.",
    ),
    warning(
        "FEW_HOP_CONNECTIONS",
        "`connection.maxConnections` is small for a Service in the mesh",
        "Between sidecars it counts connections that carry many requests each. With fewer than there are endpoints some endpoints are never reached at the same time, and it does not bound requests at all.",
        "Bound requests with `concurrency.maxRequests`, and leave `maxConnections` alone.",
    ),
    warning(
        "FEW_STREAMS",
        "Each client's connection carries only a few requests at once",
        "A small `http2.maxConcurrentStreams` makes clients queue or open more connections; it does not protect the application.",
        "Bound what the application gets with `app.maxConnections` and `concurrency`.",
    ),
    warning(
        "GRACE_ABOVE_AGE",
        "A connection's grace is longer than its age",
        "Connections live for `connections.maxAge` plus `connections.maxAgeGrace`: most of their life would be grace.",
        "Shorten `connections.maxAgeGrace`.",
    ),
    warning(
        "PANIC_BEFORE_EJECTION",
        "Endpoints are used again before so many may be left out",
        "Below `circuitBreaker.endpoint.panicThreshold` percent of healthy endpoints all are used again, so `maxEjectedPercent` is never reached.",
        "Let the two sum up to at most 100.",
    ),
    warning(
        "NOTHING_EJECTED",
        "No endpoint is ever left out",
        "With `maxEjectedPercent: 0` failures are counted and nothing follows.",
        "Raise it, or say `consecutiveFailures: 0`.",
    ),
    warning(
        "BREAKER_NEVER_TRIPS",
        "The breaker's window never holds enough requests",
        "The rate limit lets fewer requests into `circuitBreaker.service.trip.ratio.window` than `minRequests` asks for.",
        "Lower `minRequests`, or lengthen the window.",
    ),
    warning(
        "NEVER_SLOW",
        "A request ends before it counts as slow",
        "`circuitBreaker.service.slow.threshold` is not below `timeouts.request`.",
        "Lower the threshold.",
    ),
    warning(
        "GRACE_BELOW_REQUEST",
        "A server's pod may be killed while it answers",
        "`timeouts.request` is longer than the server pods' `terminationGracePeriodSeconds`. Requests that are under way when a pod is replaced can outlast it, and are cut by the kubelet.",
        "Raise `terminationGracePeriodSeconds` above the request timeout plus 5 s for endpoints to be taken out, or shorten `timeouts.request`.",
    ),
];

/// What `leno check` finds in a cluster.
static CLUSTER: [Code; 27] = [
    error(
        "API_UNREACHABLE",
        "The cluster's API server does not answer",
        "Nothing can be said of a cluster that cannot be asked.",
        "Look at the kubeconfig and its context (`kubectl config current-context`), and at the network in between.",
    ),
    error(
        "KUBERNETES_TOO_OLD",
        "Kubernetes is older than 1.33",
        "Leno's sidecar is a native one: an init container with `restartPolicy: Always`, which starts before the application, outlives it, and lets Jobs end. It is stable since Kubernetes 1.33.",
        "Upgrade the control plane and the nodes that the message names.",
    ),
    warning(
        "GATEWAY_API_MISSING",
        "Gateway API is not installed",
        "TrafficPolicies and AccessPolicies work without it; routing (HTTPRoute, GRPCRoute, TCPRoute) needs its definitions. They are picked up when they appear, without a restart.",
        "Install the standard channel of Gateway API 1.6.",
    ),
    error(
        "SOCKET_LOAD_BALANCING",
        "The CNI replaces a Service's address before the sidecar sees it",
        "With socket-level load balancing in pods (Cilium's socketLB, Calico's connect-time load balancing) the kernel puts a pod's address in place of the Service's already in connect(). The sidecar then sees a pod and not a Service: routes, TrafficPolicies, balancing and retries do not apply. mTLS does.",
        "Cilium: `socketLB.hostNamespaceOnly=true`. Calico: `bpfConnectTimeLoadBalancing: Disabled` in FelixConfiguration. Then restart the pods.",
    ),
    error(
        "POD_SECURITY",
        "A namespace asks for sidecars and forbids what they need",
        "`leno-init` needs NET_ADMIN while it writes the redirect, which Pod Security `baseline` and `restricted` forbid. Pods of this namespace are refused.",
        "Label the namespace `pod-security.kubernetes.io/enforce: privileged`. The sidecar and your containers run without any capability all the same.",
    ),
    warning(
        "OTHER_MESH",
        "Another mesh injects the same namespace",
        "Two sidecars in one pod redirect each other's traffic.",
        "Remove the other mesh's label (`istio-injection`, `istio.io/rev`, `linkerd.io/inject`) from the namespaces that are Leno's.",
    ),
    error(
        "NOT_PERMITTED",
        "You may not do what this needs",
        "Installing makes cluster-wide objects (definitions, roles, webhooks); checking reads them.",
        "Ask for the right that the message names, or use an account that has it: `kubectl auth can-i`.",
    ),
    error(
        "NOT_INSTALLED",
        "The control plane is not there",
        "There is no Deployment `leno-control-plane` in the namespace that was looked at.",
        "`helm install leno charts/leno --namespace leno-system --create-namespace --wait`, or name another namespace with `--system-namespace`.",
    ),
    error(
        "REPLICAS_NOT_READY",
        "Not all replicas of the control plane are ready",
        "Traffic goes on with what sidecars know. With no ready replica, new pods that ask for a sidecar are not made, and no policy changes.",
        "`kubectl -n leno-system get pods` and `kubectl -n leno-system logs deployment/leno-control-plane` say why.",
    ),
    warning(
        "ONE_REPLICA",
        "There is one control-plane replica",
        "While it restarts, policies wait and pods that ask for a sidecar cannot be made. Traffic is not concerned.",
        "`helm upgrade ... -f charts/leno/values-ha.yaml` for three replicas with a disruption budget.",
    ),
    error(
        "CRD_MISSING",
        "A definition of Leno's kinds is missing or not established",
        "Policies of this kind cannot be declared, and the control plane serves without them.",
        "`leno crds | kubectl apply --server-side -f -`, or `--set crds.install=true`.",
    ),
    warning(
        "CRD_OUTDATED",
        "A definition is not of this release",
        "Fields of this release are refused or dropped by the API server.",
        "`leno crds | kubectl apply --server-side -f -`, or upgrade the chart with `crds.install=true`.",
    ),
    error(
        "WEBHOOK_MISSING",
        "A webhook configuration is missing",
        "Without `leno-injector` no pod gets a sidecar; without `leno-validator` unsound policies are stored, and only their conditions say so.",
        "`helm upgrade --install leno charts/leno ...` brings it back.",
    ),
    error(
        "WEBHOOK_UNTRUSTED",
        "The API server cannot trust a webhook",
        "Its `caBundle` is empty or is not the mesh's root. The leader writes it a moment after it starts; something else (a GitOps tool, a second `helm` apply) may take it away.",
        "Look at the leader's log; tell your GitOps tool to ignore `webhooks[].clientConfig.caBundle` of leno-injector and leno-validator.",
    ),
    error(
        "INJECTOR_SILENT",
        "A pod that asks for a sidecar does not get one",
        "A trial pod (dry run: nothing is stored) was refused or came back without a sidecar.",
        "The message is the API server's. A timeout means that it cannot reach port 15017 of the control plane's pods: look at NetworkPolicies and node firewalls.",
    ),
    error(
        "ROOT_MISSING",
        "The root of trust cannot be found",
        "The Secret `leno-root` is gone while pods trust it. No new root is made by itself: nobody would trust it.",
        "Restore the Secret from a backup. If it is lost: delete every ConfigMap leno-trust, restart the control plane, then all meshed workloads.",
    ),
    warning(
        "ROOT_EXPIRES",
        "The root of trust ends soon",
        "When it ends, every certificate of the mesh ends with it.",
        "Rotate it while every sidecar is connected; both roots are trusted until the last certificate of the old one has ended.",
    ),
    error(
        "TRUST_MISSING",
        "A namespace with meshed pods lacks ConfigMap leno-trust",
        "New pods of this namespace wait in ContainerCreating for the anchors that they mount.",
        "The leader makes it within seconds; if it does not, its log says why.",
    ),
    warning(
        "NO_LEADER",
        "No replica leads",
        "Statuses, trust anchors and webhook certificates are not written. Traffic and policy are not concerned.",
        "Another replica takes over after 15 s. If none does: the Lease `leno-control-plane` and the replicas' logs say why.",
    ),
    warning(
        "OBJECT_REFUSED",
        "A policy is stored that cannot be read",
        "It is set aside and changes nothing for others.",
        "`leno lint cluster` names the field and the remedy.",
    ),
    warning(
        "SOURCE_STALE",
        "A replica is behind the API server",
        "It goes on serving what it knows.",
        "Its log says which watch fails and why.",
    ),
    error(
        "POLICY_NOT_LIVE",
        "A policy is not in force everywhere",
        "`Programmed` is False: some proxies have not taken it up, or have refused it.",
        "`leno diff` names the proxies that are waited for.",
    ),
    warning(
        "SIDECAR_MISSING",
        "A pod should have a sidecar and has none",
        "It was made before its namespace was labelled, or while `failurePolicy: Ignore` let it through. Its traffic is plaintext, and no policy of its own applies.",
        "`leno restart --unmeshed -n NAMESPACE`",
    ),
    error(
        "SIDECAR_NOT_READY",
        "A sidecar is not ready",
        "Its pod gets no traffic.",
        "`leno proxy ready POD` says what it waits for; `kubectl logs POD -c leno-proxy` why.",
    ),
    error(
        "SIDECAR_DISCONNECTED",
        "A sidecar has no session with the control plane",
        "It serves what it knows, learns nothing new, and cannot renew its certificate.",
        "Look at what stands between the pod and port 15012 of the control plane: NetworkPolicies of its namespace first.",
    ),
    warning(
        "SIDECAR_OUTDATED",
        "A sidecar is not of the control plane's release",
        "Sidecars up to two releases back are served; fields that they do not know are reported as unsupported.",
        "`leno restart --outdated`",
    ),
    error(
        "CERTIFICATE_EXPIRES",
        "A sidecar's certificate ends soon",
        "Sidecars renew at 50-70 % of a certificate's life. This one has not, and when it ends its connections are refused.",
        "The sidecar's log and `leno_certificate_failures_total` say why it could not.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_there_once_and_says_something() {
        let mut names: Vec<&str> = all().map(|code| code.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a code is there twice");
        for code in all() {
            assert!(code.name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", code.name);
            assert!(!code.title.ends_with('.') && code.why.ends_with('.'), "{}", code.name);
            assert!(contents().contains(&format!("({}.md)", code.name)));
        }
    }

    /// By reading the sources: a finding is made where its fields are, far from this table.
    #[test]
    fn what_is_emitted_is_explained_and_what_is_explained_is_emitted() {
        let mut emitted: Vec<&str> = Vec::new();
        let sources = [
            include_str!("../lint.rs"),
            include_str!("codes.rs").split("static OBJECTS").next().unwrap(),
            include_str!("../compile/conditions.rs"),
            include_str!("../bin/leno/lint.rs"),
            include_str!("../bin/leno/check.rs"),
            include_str!("../bin/leno/check/cluster.rs"),
            include_str!("../bin/leno/check/installed.rs"),
            include_str!("../bin/leno/check/sidecars.rs"),
        ];
        let shouted = regex::Regex::new("\"([A-Z][A-Z_]{4,})\"").unwrap();
        for line in sources.iter().flat_map(|source| source.lines()).filter(|line| !line.contains("value_name")) {
            emitted.extend(shouted.captures_iter(line).filter_map(|found| found.get(1)).map(|word| word.as_str()));
        }
        for code in all() {
            assert!(emitted.contains(&code.name), "nobody emits {}", code.name);
        }
        let environment = ["NO_COLOR", "KUBECONFIG"];
        for code in emitted.into_iter().filter(|code| !environment.contains(code) && !code.starts_with("LENO_")) {
            assert!(named(code).is_some(), "{code} has no row");
        }
    }

    #[test]
    fn long_lines_break_at_spaces() {
        assert_eq!(wrapped("one two three", 8), "one two\nthree");
        assert_eq!(wrapped("unbreakable", 4), "unbreakable");
    }
}
