//! The wire: it comes back as it went, it is the same for ever, and no bytes break it.

mod any;
mod golden;
mod refuse;

use proptest::prelude::any as arbitrary;
use proptest::prelude::*;

use super::*;
use any::Dice;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resource_comes_back_as_it_went(seed in arbitrary::<u64>()) {
        let resource = any::resource(&mut Dice::new(seed));
        let bytes = resource.encode();
        prop_assert_eq!(Resource::decode(&bytes), Ok(resource.clone()));
        // A copy shares no object with the original: equal content must still give equal bytes.
        prop_assert_eq!(any::resource(&mut Dice::new(seed)).encode(), bytes);
    }

    #[test]
    fn what_decodes_encodes_to_itself(seed in arbitrary::<u64>()) {
        let bytes = any::resource(&mut Dice::new(seed)).encode();
        let again = Resource::decode(&bytes).map(|resource| resource.encode());
        prop_assert_eq!(again, Ok(bytes));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(arbitrary::<u8>(), 0..512)) {
        let _ = Resource::decode(&bytes);
    }

    #[test]
    fn no_damage_makes_it_panic(seed in arbitrary::<u64>(), at in arbitrary::<proptest::sample::Index>(), to in arbitrary::<u8>()) {
        let mut bytes = any::resource(&mut Dice::new(seed)).encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Resource::decode(&bytes);
        bytes.truncate(at);
        let _ = Resource::decode(&bytes);
    }
}

#[test]
fn policies_that_are_equal_are_sent_once_and_are_one_object() {
    let policy = || Arc::new(crate::testing::traffic());
    let backend = |name: &str| any::backend(name, policy());
    let outbound = crate::policy::Outbound {
        service: crate::policy::ServiceName { namespace: "shop".into(), name: "orders".into() },
        ports: vec![any::outbound_port(80, backend("a"), policy()), any::outbound_port(81, backend("b"), policy())],
    };
    let bytes = Resource::Outbound(outbound).encode();
    let sent = wire::Resource::decode(bytes.as_slice()).expect("a message");
    assert_eq!(sent.traffic.len(), 1);
    let Ok(Resource::Outbound(back)) = Resource::decode(&bytes) else { panic!("an Outbound") };
    assert!(Arc::ptr_eq(&back.ports[0].policy, &back.ports[1].backend.policy));
}
