//! HTTP/2, the h2 crate driven directly. (to be written)
use std::marker::PhantomData;
pub struct Incoming<'c>(PhantomData<&'c ()>);
