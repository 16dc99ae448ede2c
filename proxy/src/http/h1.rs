//! The strict HTTP/1 codec. (to be written)
use std::marker::PhantomData;
pub struct Incoming<'c>(PhantomData<&'c ()>);
pub struct Answer<'c>(PhantomData<&'c ()>);
