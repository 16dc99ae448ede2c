//! How much a peer may have on its way: by how far it is, and how many large streams it has.

use crate::http::h2::Settings;
use crate::http::h2::batch::BatchIo;
use crate::http::h2::state::State;
use crate::http::h2::tests::app::run;
use crate::http::h2::tests::app::settings;

const KIB: i64 = 1024;
const PIECE: i64 = 16 * KIB;

/// A server's connection of which nobody reads what it says.
fn state(near: bool) -> State {
    let (io, _peer) = tokio::io::duplex(64);
    State::new(true, &Settings { near, ..settings() }, BatchIo::new(io).writer())
}

/// Of each stream in turn so many pieces come, and are handed on at once.
fn pass(state: &mut State, keys: &[u32], pieces: usize) {
    for _ in 0..pieces {
        for &key in keys {
            let stream = state.stream(key);
            assert!(stream.window >= PIECE, "{} bytes of credit left", stream.window);
            stream.window -= PIECE;
            stream.received += PIECE as u64;
            state.credit(key, PIECE as usize);
        }
    }
}

#[test]
fn a_far_peer_may_fill_each_stream_from_the_beginning() {
    run(async {
        let mut state = state(false);
        let keys: Vec<u32> = (0..8).map(|number| state.begin(2 * number + 1)).collect();
        for &key in &keys {
            assert_eq!(state.stream(key).window, 256 * KIB);
        }
        pass(&mut state, &keys, 100);
        for &key in &keys {
            assert!((128 * KIB..=256 * KIB).contains(&state.stream(key).window));
        }
    });
}

#[test]
fn large_streams_of_a_near_peer_share_what_one_alone_may_have_on_its_way() {
    run(async {
        let mut state = state(true);
        let first = state.begin(1);
        assert_eq!(state.stream(first).window, 64 * KIB);
        pass(&mut state, &[first], 2);
        assert_eq!(state.stream(first).window, 64 * KIB, "what is small keeps its window");
        pass(&mut state, &[first], 100);
        assert!((128 * KIB..=256 * KIB).contains(&state.stream(first).window), "alone");

        let more = (1..4).map(|number| state.begin(2 * number + 1));
        let all: Vec<u32> = [first].into_iter().chain(more.collect::<Vec<_>>()).collect();
        pass(&mut state, &all, 100);
        let on_the_way: i64 = all.iter().map(|&key| state.stream(key).window).sum();
        assert!(on_the_way <= 256 * KIB, "{on_the_way} together");

        for &key in &all[1..] {
            state.release(key);
        }
        pass(&mut state, &[first], 100);
        assert!((128 * KIB..=256 * KIB).contains(&state.stream(first).window), "alone again");
    });
}

#[test]
fn however_many_large_streams_a_near_peer_has_each_may_have_two_frames_on_its_way() {
    run(async {
        let mut state = state(true);
        let keys: Vec<u32> = (0..16).map(|number| state.begin(2 * number + 1)).collect();
        pass(&mut state, &keys, 100);
        for &key in &keys {
            assert!((PIECE..=2 * PIECE).contains(&state.stream(key).window));
        }
    });
}

#[test]
fn what_nobody_has_read_counts_as_on_its_way() {
    run(async {
        let mut state = state(true);
        let key = state.begin(1);
        pass(&mut state, &[key], 100);
        let stream = state.stream(key);
        stream.window -= PIECE;
        stream.received += PIECE as u64;
        stream.held += PIECE as usize;
        pass(&mut state, &[key], 20);
        let stream = state.stream(key);
        assert!(stream.window + stream.held as i64 <= 256 * KIB);
    });
}
