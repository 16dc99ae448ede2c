//! Open-loop load at a fixed rate: a request's latency counts from when it was meant to leave, so that a stall is charged to
//! everything that it delays. Threads and blocking sockets: a timer of 1 ms would be coarser than what is measured.

use std::collections::VecDeque;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

use crate::bench::closed::answer;
use crate::bench::figures::Figures;
use crate::bench::figures::Latencies;
use crate::bench::load;
use crate::bench::load::Clock;
use crate::bench::load::Options;

/// The generator woke so much after the intended time: it was stopped itself, and what waited then says nothing about the
/// proxies, which may have been running.
const STALL: Duration = Duration::from_millis(1);

/// What is under way on one connection.
#[derive(Debug, Clone, Copy)]
struct Job {
    intended: Instant,
    /// Delayed by a stall of the generator.
    late: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: VecDeque<usize>,
    jobs: Vec<Option<Job>>,
    latencies: Latencies,
    late: u64,
    bad: u64,
}

pub(super) fn run(options: &Options, clock: Clock) -> anyhow::Result<Figures> {
    // The kernel's 50 us of slack would be in every latency.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let request = load::request(options);
    let shared = Arc::new(Shared::default());
    shared.lock().jobs = vec![None; options.connections];
    let mut sockets = Vec::new();
    let (ended, end) = mpsc::channel::<()>();
    for number in 0..options.connections {
        let socket = TcpStream::connect(options.to).with_context(|| format!("connect to {}", options.to))?;
        socket.set_nodelay(true)?;
        shared.lock().idle.push_back(number);
        let (reader, shared, ended) = (socket.try_clone()?, shared.clone(), ended.clone());
        std::thread::spawn(move || {
            read(reader, number, &shared, clock);
            drop(ended);
        });
        sockets.push(socket);
    }
    drop(ended);
    let sent = send(options, clock, &request, &mut sockets, &shared)?;
    // Answers that are on their way.
    let last = Instant::now() + Duration::from_secs(2);
    while shared.lock().jobs.iter().any(Option::is_some) && Instant::now() < last {
        std::thread::sleep(Duration::from_millis(5));
    }
    sockets.iter().for_each(|socket| drop(socket.shutdown(std::net::Shutdown::Both)));
    let _ = end.recv();
    let mut state = shared.lock();
    let lost = state.jobs.iter().flatten().count() as u64;
    let latencies = std::mem::take(&mut state.latencies);
    // CPU is for all that were sent; latency for those that can be judged.
    let mut figures = Figures::new(sent, state.bad + lost, clock.end - clock.begin, latencies);
    figures.late = state.late;
    Ok(figures)
}

/// Sends at the intended times until the clock ends; returns how many counted.
fn send(
    options: &Options,
    clock: Clock,
    request: &[u8],
    sockets: &mut [TcpStream],
    shared: &Shared,
) -> anyhow::Result<u64> {
    let step = Duration::from_secs(1) / options.rate.max(1);
    let mut intended = Instant::now();
    let mut told = false;
    let mut sent = 0;
    let mut dirty = false;
    while intended < clock.end {
        if !told && intended >= clock.begin {
            load::go();
            told = true;
        }
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        let mut state = shared.lock();
        if intended.elapsed() > STALL && !state.idle.is_empty() && !dirty {
            dirty = true;
            state.jobs.iter_mut().flatten().for_each(|job| job.late = true);
        } else if intended.elapsed() <= STALL {
            dirty = false;
        }
        while state.idle.is_empty() {
            state = shared.freed.wait(state).expect("no holder of this lock panics");
        }
        let number = state.idle.pop_front().expect("waited for");
        state.jobs[number] = Some(Job { intended, late: dirty });
        drop(state);
        sockets[number].write_all(request).context("send")?;
        sent += u64::from(told);
        intended += step;
    }
    Ok(sent)
}

fn read(mut socket: TcpStream, number: usize, shared: &Shared, clock: Clock) {
    let mut read = Vec::with_capacity(32 * 1024);
    let mut chunk = [0; 32 * 1024];
    loop {
        let Ok(count) = socket.read(&mut chunk) else { return };
        if count == 0 {
            return;
        }
        read.extend_from_slice(&chunk[..count]);
        let Ok(Some(well)) = answer(&read) else { continue };
        read.clear();
        let now = Instant::now();
        let mut state = shared.lock();
        let Some(job) = state.jobs[number].take() else { return };
        state.idle.push_back(number);
        if !well {
            state.bad += 1;
        } else if job.late {
            state.late += 1;
        } else if job.intended >= clock.begin {
            state.latencies.push(now - job.intended);
        }
        drop(state);
        shared.freed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}
