use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Insert(u64),
    Remove(usize),
    Turn(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..3000u64).prop_map(Op::Insert),
        1 => any::<usize>().prop_map(Op::Remove),
        2 => prop_oneof![1..4u64, 1..2000u64].prop_map(Op::Turn),
    ];
    prop::collection::vec(op, 0..200)
}

proptest! {
    /// Against a list: every timer rings exactly when its tick is turned to, and `next` never lies beyond the first.
    #[test]
    fn rings_like_a_sorted_list(ops in ops()) {
        let mut wheel = Wheel::new();
        let mut model: Vec<(Key, u64)> = Vec::new();
        let mut rung: BTreeMap<u32, ()> = BTreeMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Insert(ahead) => {
                    let (key, tick) = wheel.insert(now + ahead);
                    prop_assert_eq!(tick, (now + ahead).max(now + 1));
                    prop_assert!(wheel.poll(key, Waker::noop()).is_pending());
                    model.push((key, tick));
                    rung.remove(&key.0);
                }
                Op::Remove(i) if !model.is_empty() => {
                    let (key, _) = model.swap_remove(i % model.len());
                    wheel.remove(key);
                }
                Op::Remove(_) => {}
                Op::Turn(by) => {
                    now += by;
                    let mut wake = Vec::new();
                    wheel.turn_to(now, &mut wake);
                    let due: Vec<_> = model.iter().filter(|(_, tick)| *tick <= now).copied().collect();
                    prop_assert_eq!(wake.len(), due.len());
                    for (key, _) in due {
                        prop_assert!(wheel.poll(key, Waker::noop()).is_ready());
                        wheel.remove(key);
                        model.retain(|(k, _)| *k != key);
                    }
                }
            }
            prop_assert_eq!(wheel.is_empty(), model.is_empty());
            let first = model.iter().map(|(_, tick)| *tick).min();
            match (wheel.next(), first) {
                (None, None) => {}
                (Some(next), Some(first)) => {
                    prop_assert!(next > now && next <= first, "{} {} {}", now, next, first);
                    // It is the first itself if that lies in this round.
                    prop_assert!(first > now + SLOTS as u64 || model.iter().any(|(_, t)| t % SLOTS as u64 == next % SLOTS as u64));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

#[test]
fn an_empty_wheel_skips_ahead_and_a_set_one_does_not() {
    let mut wheel = Wheel::new();
    wheel.skip_to(10_000);
    let (key, tick) = wheel.insert(3);
    assert_eq!(tick, 10_001);
    wheel.skip_to(20_000);
    assert_eq!(wheel.next(), Some(10_001));
    wheel.remove(key);
    assert_eq!(wheel.next(), None);
}
