//! Copies see what the original gave, or are cut; the original never waits.

use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use proptest::prelude::*;

use super::Feed;
use super::*;

/// An original whose source is another copy's feed, so that a test can push into it.
fn source() -> (Rc<RefCell<Feed>>, Body<'static>) {
    let feed = Feed { pieces: VecDeque::new(), waiting: 0, left: None, end: None, reader: None };
    let feed = Rc::new(RefCell::new(feed));
    (Rc::clone(&feed), Body::Copy(Copy(feed)))
}

fn pull(body: &mut Body<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
    body.poll_data(&mut Context::from_waker(Waker::noop()))
}

fn pull_all(body: &mut Body<'_>) -> (Vec<u8>, Option<Reason>) {
    let mut all = Vec::new();
    loop {
        match pull(body) {
            Poll::Pending => panic!("it has ended"),
            Poll::Ready(None) => return (all, None),
            Poll::Ready(Some(Err(reason))) => return (all, Some(reason)),
            Poll::Ready(Some(Ok(data))) => all.extend_from_slice(&data),
        }
    }
}

proptest! {
    #[test]
    fn every_copy_reads_what_the_original_gave(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..2000), 0..20)) {
        let (feed, body) = source();
        let (mut original, mut copies) = copies(body, 2);
        for piece in &pieces {
            feed.borrow_mut().push(&Bytes::from(piece.clone()));
            prop_assert!(matches!(pull(&mut original), Poll::Ready(Some(Ok(_)))));
        }
        feed.borrow_mut().finish(Ok(None));
        prop_assert_eq!(pull(&mut original), Poll::Ready(None));
        for copy in &mut copies {
            prop_assert_eq!(pull_all(copy), (pieces.concat(), None));
        }
    }
}

#[test]
fn a_copy_that_nobody_reads_is_cut_and_the_original_goes_on() {
    let (feed, body) = source();
    let (mut original, mut copies) = copies(body, 2);
    let mut quick = copies.pop().unwrap();
    let mut slow = copies.pop().unwrap();
    for _ in 0..=COPY_MAX / 1000 {
        feed.borrow_mut().push(&Bytes::from(vec![7; 1000]));
        assert!(matches!(pull(&mut original), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(pull(&mut quick), Poll::Ready(Some(Ok(_)))));
    }
    feed.borrow_mut().finish(Ok(None));
    assert_eq!(pull(&mut original), Poll::Ready(None));
    assert_eq!(pull(&mut quick), Poll::Ready(None));
    assert_eq!(pull_all(&mut slow), (Vec::new(), Some(Reason::OverloadMemory)));
}

#[test]
fn an_original_that_is_dropped_cuts_its_copies() {
    let (feed, body) = source();
    let (mut original, mut copies) = copies(body, 1);
    feed.borrow_mut().push(&Bytes::from_static(b"half"));
    assert!(matches!(pull(&mut original), Poll::Ready(Some(Ok(_)))));
    drop(original);
    assert_eq!(pull_all(&mut copies[0]), (b"half".to_vec(), Some(Reason::ClientGone)));
}

#[test]
fn trailers_reach_the_original_and_the_copy() {
    let (feed, body) = source();
    let (mut original, mut copies) = copies(body, 1);
    let mut trailers = Headers::default();
    trailers.push(b"grpc-status", b"0");
    feed.borrow_mut().finish(Ok(Some(trailers)));
    assert_eq!(pull(&mut original), Poll::Ready(None));
    assert_eq!(pull(&mut copies[0]), Poll::Ready(None));
    for body in [&mut original, &mut copies[0]] {
        assert_eq!(body.trailers().unwrap().get("grpc-status"), Some(&b"0"[..]));
    }
}

#[test]
fn the_length_of_a_copy_shrinks_as_it_is_read() {
    let (feed, body) = source();
    feed.borrow_mut().left = Some(8);
    let (mut original, mut copies) = copies(body, 1);
    feed.borrow_mut().push(&Bytes::from_static(b"half"));
    assert_eq!((original.length(), copies[0].length()), (Some(8), Some(8)));
    assert!(matches!(pull(&mut original), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(pull(&mut copies[0]), Poll::Ready(Some(Ok(_)))));
    assert_eq!((original.length(), copies[0].length()), (Some(4), Some(4)));
}
