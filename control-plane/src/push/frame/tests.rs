use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

use super::*;
use crate::push::ledger::RESOURCE_MAX;
use crate::push::offer::Item;

fn endpoints(bucket: u32) -> Key {
    let service = ServiceName { namespace: "n".repeat(253).into(), name: "s".repeat(253).into() };
    Key::Endpoints { target: ServicePort { service, port: 65535 }, bucket }
}

fn plan(sizes: &[usize]) -> Plan {
    let put = |(bucket, size): (usize, &usize)| {
        Change::Put(endpoints(u32::try_from(bucket).unwrap()), Item::new(Bytes::from(vec![7; *size])))
    };
    Plan { id: u64::MAX, changes: sizes.iter().enumerate().map(put).collect() }
}

#[test]
fn no_part_is_larger_than_a_message_may_be_and_nothing_is_lost() {
    let tables: [&[usize]; 5] = [
        &[],
        &[RESOURCE_MAX],
        &[RESOURCE_MAX, RESOURCE_MAX, 1],
        &[130_000; 9],
        &[MESSAGE_MAX / 2, MESSAGE_MAX / 2 - 600, 10, RESOURCE_MAX, 0, 0],
    ];
    for sizes in tables {
        let mut parts = Parts::new(plan(sizes));
        let mut seen = Vec::new();
        loop {
            let (message, last) = parts.take();
            assert!(message.encoded_len() <= MESSAGE_MAX, "{} bytes", message.encoded_len());
            let Some(to_proxy::Message::Transaction(transaction)) = message.message else { unreachable!() };
            assert_eq!((transaction.id, transaction.last), (u64::MAX, last));
            for change in transaction.changes {
                let Some(change::Change::Put(put)) = change.change else { unreachable!() };
                seen.push(put.resource.len());
            }
            if last {
                break;
            }
        }
        assert_eq!(seen, sizes);
    }
}

#[test]
fn many_small_changes_share_a_message() {
    // Each has a key of half a kilobyte.
    let mut parts = Parts::new(plan(&[100; 12]));
    assert!(!parts.take().1);
    assert!(parts.take().1);
}

#[test]
fn what_a_proxy_says_in_words_is_cut_at_a_character() {
    let mut words = "ä".repeat(WORDS_MAX);
    cut(&mut words);
    assert_eq!(words.chars().count(), WORDS_MAX / 2);
}

#[test]
fn keys_that_we_do_not_know_are_passed_over() {
    assert_eq!(key(None), None);
    assert_eq!(key(Some(&control::Key { kind: 99, name: "x".into() })), None);
    assert_eq!(key(Some(&control::Key { kind: 1, name: "010.0.0.1:80".into() })), None);
}
