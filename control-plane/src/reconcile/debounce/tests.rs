use super::*;
use crate::object::Kind;
use crate::object::Name;
use crate::object::kube::Meta;
use crate::object::kube::SliceConditions;
use crate::object::kube::SliceEndpoint;

/// Endpoints by address, ready or not.
fn slice(endpoints: &[(&str, bool)]) -> Event {
    let endpoint = |(address, ready): &(&str, bool)| SliceEndpoint {
        addresses: vec![(*address).to_owned()],
        conditions: SliceConditions { ready: Some(*ready), ..SliceConditions::default() },
        ..SliceEndpoint::default()
    };
    let slice = EndpointSlice {
        metadata: Meta { name: "web".to_owned(), namespace: "shop".to_owned(), ..Meta::default() },
        address_type: "IPv4".to_owned(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: Vec::new(),
    };
    Event::Applied(Arc::new(Object::EndpointSlice(slice)))
}

fn batch(event: Event) -> Batch {
    Batch { events: vec![event], ..Batch::default() }
}

#[test]
fn what_comes_in_a_burst_is_published_once_and_not_later_than_patience_allows() {
    let (mut debounce, begun) = (Debounce::default(), Instant::now());
    assert_eq!(debounce.due(), None);
    let mut now = begun;
    debounce.add(batch(slice(&[("10.0.0.1", true)])), Haste::Gather, now);
    assert_eq!(debounce.due(), Some(begun + QUIET));
    while debounce.due().unwrap() > now {
        now += QUIET / 2;
        debounce.add(batch(slice(&[("10.0.0.2", true)])), Haste::Gather, now);
    }
    assert_eq!(debounce.due(), Some(begun + PATIENCE));
    assert_eq!(debounce.take().unwrap().events.len(), 1, "one event an object, however often it changed");
    assert!(debounce.take().is_none() && debounce.due().is_none());
}

#[test]
fn what_takes_an_endpoint_away_does_not_wait_and_takes_along_what_did() {
    let mut world = World::default();
    world.apply(vec![slice(&[("10.0.0.1", true), ("10.0.0.2", true)])]);
    let cases = [
        (slice(&[("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", true)]), Haste::Gather),
        (slice(&[("10.0.0.2", true)]), Haste::AtOnce),
        (slice(&[("10.0.0.1", true), ("10.0.0.2", false)]), Haste::AtOnce),
        (Event::Deleted(ObjectId { kind: Kind::Service, name: Name::new("shop", "web") }), Haste::AtOnce),
    ];
    for (event, expected) in cases {
        assert_eq!(haste(&world, std::slice::from_ref(&event)), expected, "{event:?}");
    }
    let (mut debounce, now) = (Debounce::default(), Instant::now());
    debounce.add(batch(slice(&[])), Haste::Gather, now);
    let later = now + QUIET / 2;
    debounce.add(batch(slice(&[])), Haste::AtOnce, later);
    assert_eq!(debounce.due(), Some(later));
    debounce.add(batch(slice(&[])), Haste::Gather, later);
    assert_eq!(debounce.due(), Some(later), "what was urgent stays so");
}
