//! What is measured, and what has to hold: every test with its gate and its goal, as data, in one table. It must never hold a
//! figure of one machine: limits are ratios within a run, or properties of the program.

use crate::bench::load::Kind;
use crate::bench::peers::Door;
use crate::bench::peers::Name;

/// One row of the benchmark.
pub struct Test {
    pub name: &'static str,
    pub what: &'static str,
    pub work: Work,
    /// Each has to hold for `--check`.
    pub gate: &'static [Limit],
    pub goal: &'static [Limit],
    /// Beside Leno; `--quick` leaves nginx out.
    pub peers: &'static [Name],
    /// Part of `--quick`.
    pub quick: bool,
}

pub enum Work {
    /// Slices of load on pairs that run on one CPU.
    Load(Spec),
    /// The same on two workers each, not pinned.
    Free(Spec),
    /// Both sidecars anew, to the first 200.
    Start,
    /// Resident memory of the pair while 1000 connections are active.
    BusyMemory,
    /// Of a sidecar that knows 50 services and does nothing.
    IdleMemory,
    /// System calls of both sidecars under a load.
    SystemCalls(Spec),
    /// Heap allocations in each sidecar, counted under callgrind.
    Allocations,
    /// One decision, in this process.
    Decision,
    /// Of the program without symbols.
    Size,
}

/// A load, without its target.
#[derive(Clone, Copy)]
pub struct Spec {
    pub kind: Kind,
    pub door: Door,
    pub connections: usize,
    pub streams: usize,
    pub rate: u32,
    pub path: &'static str,
    pub post: usize,
    pub headers: bool,
}

/// What a slice gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Requests (handshakes, messages) a second.
    Rate,
    /// CPU microseconds of both sidecars for a request.
    Cpu,
    /// Of the inbound sidecar alone.
    CpuInbound,
    /// Microseconds; judged without what the same load costs directly.
    P50,
    P99,
    /// MiB.
    Memory,
    /// Milliseconds.
    Start,
    /// A request and sidecar.
    Calls,
    /// A request and sidecar.
    Allocations,
    /// Microseconds.
    Decision,
    /// MiB.
    Size,
}

impl Figure {
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Cpu => "CPU us/request",
            Self::CpuInbound => "inbound CPU us",
            Self::P50 => "added p50 us",
            Self::P99 => "added p99 us",
            Self::Memory => "RSS MiB",
            Self::Start => "start ms",
            Self::Calls => "syscalls/request",
            Self::Allocations => "allocs/request",
            Self::Decision => "decision us",
            Self::Size => "size MiB",
        }
    }

    /// Measured without sidecars too, and taken off.
    pub fn is_added(self) -> bool {
        matches!(self, Self::P50 | Self::P99)
    }
}

/// One thing that has to hold.
pub struct Limit {
    pub figure: Figure,
    pub bound: Bound,
    pub of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Times the same figure of this one in the same round.
    Times(Name),
    /// The figure itself.
    Plain,
}

const H: Of = Of::Times(Name::Haproxy);
const E: Of = Of::Times(Name::Envoy);

const fn least(figure: Figure, factor: f64, of: Of) -> Limit {
    Limit { figure, bound: Bound::AtLeast(factor), of }
}

const fn most(figure: Figure, factor: f64, of: Of) -> Limit {
    Limit { figure, bound: Bound::AtMost(factor), of }
}

const GET: Spec = Spec {
    kind: Kind::Closed,
    door: Door::Http1,
    connections: 32,
    streams: 1,
    rate: 0,
    path: "/1k",
    post: 0,
    headers: false,
};

const HTTP2: Spec = Spec { kind: Kind::Http2, door: Door::Http2, connections: 4, streams: 32, ..GET };

const ALL: &[Name] = &[Name::Haproxy, Name::Envoy, Name::Nginx, Name::Direct];
const PAIRS: &[Name] = &[Name::Haproxy, Name::Envoy, Name::Nginx];
const TWO: &[Name] = &[Name::Haproxy, Name::Envoy];

pub const TESTS: &[Test] = &[
    Test {
        name: "c32",
        what: "HTTP/1.1, 32 connections, 1 KB",
        work: Work::Load(GET),
        gate: &[least(Figure::Rate, 1.2, H), least(Figure::Rate, 3.5, E)],
        goal: &[least(Figure::Rate, 1.5, H), most(Figure::Cpu, 16.5, Of::Plain)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "c128",
        what: "HTTP/1.1, 128 connections, 1 KB",
        work: Work::Load(Spec { connections: 128, ..GET }),
        gate: &[least(Figure::Rate, 1.2, H)],
        goal: &[least(Figure::Rate, 1.6, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "c1",
        what: "HTTP/1.1, 1 connection, 1 KB",
        work: Work::Load(Spec { connections: 1, ..GET }),
        gate: &[least(Figure::Rate, 1.1, H), least(Figure::Rate, 3.0, E)],
        goal: &[least(Figure::Rate, 1.3, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "c32-16k",
        what: "HTTP/1.1, 32 connections, 16 KB bodies",
        work: Work::Load(Spec { path: "/16k", ..GET }),
        gate: &[least(Figure::Rate, 1.3, H)],
        goal: &[least(Figure::Rate, 1.6, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "headers",
        what: "14 headers each way, 32 connections",
        work: Work::Load(Spec { path: "/headers", headers: true, ..GET }),
        gate: &[least(Figure::Rate, 1.1, H)],
        goal: &[least(Figure::Rate, 1.4, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "post",
        what: "POST of 1 KB, 32 connections",
        work: Work::Load(Spec { post: 1024, ..GET }),
        gate: &[least(Figure::Rate, 1.1, H)],
        goal: &[least(Figure::Rate, 1.4, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "h2-h1",
        what: "h2 client 4 x 32, HTTP/1.1 application",
        work: Work::Load(HTTP2),
        gate: &[least(Figure::Rate, 2.2, E)],
        goal: &[least(Figure::Rate, 1.1, H)],
        peers: PAIRS,
        quick: true,
    },
    Test {
        name: "h2-h2",
        what: "h2 client 4 x 32, h2 application",
        work: Work::Load(Spec { door: Door::Grpc, ..HTTP2 }),
        gate: &[least(Figure::Rate, 2.2, E)],
        goal: &[least(Figure::Rate, 1.1, H)],
        peers: &[Name::Haproxy, Name::Envoy, Name::Direct],
        quick: true,
    },
    Test {
        name: "grpc",
        what: "gRPC calls of 32 bytes, 4 x 32",
        work: Work::Load(Spec { kind: Kind::Unary, door: Door::Grpc, ..HTTP2 }),
        gate: &[least(Figure::Rate, 2.0, E)],
        goal: &[least(Figure::Rate, 3.0, E)],
        peers: TWO,
        quick: true,
    },
    Test {
        name: "grpc-stream",
        what: "gRPC streams of small messages, 4 x 32",
        work: Work::Load(Spec { kind: Kind::Stream, door: Door::Grpc, ..HTTP2 }),
        gate: &[least(Figure::Rate, 2.0, E)],
        goal: &[least(Figure::Rate, 3.0, E)],
        peers: TWO,
        quick: false,
    },
    Test {
        name: "rate2000",
        what: "open loop at 2000/s, 32 connections",
        work: Work::Load(Spec { kind: Kind::Paced, rate: 2000, ..GET }),
        gate: &[most(Figure::Cpu, 0.80, H), most(Figure::P50, 1.0, H), most(Figure::P99, 1.1, H)],
        goal: &[most(Figure::Cpu, 0.60, H), most(Figure::P50, 0.75, H), most(Figure::P99, 0.8, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "newconn",
        what: "a new client connection for each request",
        work: Work::Load(Spec { kind: Kind::Fresh, ..GET }),
        gate: &[least(Figure::Rate, 1.0, H)],
        goal: &[least(Figure::Rate, 1.3, H)],
        peers: ALL,
        quick: true,
    },
    Test {
        name: "handshake",
        what: "mTLS handshakes (X25519MLKEM768)",
        work: Work::Load(Spec { kind: Kind::Handshakes, door: Door::Tls, connections: 2, ..GET }),
        gate: &[most(Figure::CpuInbound, 0.75, E)],
        goal: &[most(Figure::CpuInbound, 0.60, E)],
        peers: PAIRS,
        quick: true,
    },
    Test {
        name: "workers",
        what: "two workers, not pinned, 128 connections",
        work: Work::Free(Spec { connections: 128, ..GET }),
        gate: &[least(Figure::Rate, 1.1, H)],
        goal: &[least(Figure::Rate, 1.5, H)],
        peers: TWO,
        quick: false,
    },
    Test {
        name: "features",
        what: "everything on against minimal policy",
        work: Work::Load(GET),
        gate: &[most(Figure::Cpu, 1.12, Of::Times(Name::Minimal))],
        goal: &[most(Figure::Cpu, 1.06, Of::Times(Name::Minimal))],
        peers: &[Name::Minimal],
        quick: false,
    },
    Test {
        name: "calls",
        what: "system calls, 32 connections",
        work: Work::SystemCalls(GET),
        gate: &[most(Figure::Calls, 3.0, Of::Plain)],
        goal: &[most(Figure::Calls, 2.0, Of::Plain)],
        peers: TWO,
        quick: true,
    },
    Test {
        name: "allocations",
        what: "heap allocations, 32 connections",
        work: Work::Allocations,
        gate: &[most(Figure::Allocations, 10.0, Of::Plain)],
        goal: &[most(Figure::Allocations, 3.0, Of::Plain)],
        peers: &[],
        quick: false,
    },
    Test {
        name: "decision",
        what: "pick, pool, breaker, retry, limits, authorize together",
        work: Work::Decision,
        gate: &[most(Figure::Decision, 1.0, Of::Plain)],
        goal: &[most(Figure::Decision, 0.3, Of::Plain)],
        peers: &[],
        quick: true,
    },
    Test {
        name: "rss-busy",
        what: "the pair with 1000 active connections",
        work: Work::BusyMemory,
        gate: &[most(Figure::Memory, 0.45, E)],
        goal: &[most(Figure::Memory, 0.25, E)],
        peers: PAIRS,
        quick: true,
    },
    Test {
        name: "rss-idle",
        what: "one idle sidecar with 50 services",
        work: Work::IdleMemory,
        gate: &[most(Figure::Memory, 16.0, Of::Plain)],
        goal: &[most(Figure::Memory, 10.0, Of::Plain)],
        peers: &[],
        quick: true,
    },
    Test {
        name: "start",
        what: "exec to the first 200 through the pair",
        work: Work::Start,
        gate: &[most(Figure::Start, 1.2, E)],
        goal: &[most(Figure::Start, 1.0, H)],
        peers: PAIRS,
        quick: true,
    },
    Test {
        name: "size",
        what: "the program, stripped",
        work: Work::Size,
        gate: &[most(Figure::Size, 16.0, Of::Plain)],
        goal: &[most(Figure::Size, 10.0, Of::Plain)],
        peers: &[Name::Envoy],
        quick: true,
    },
];
