//! The strict HTTP/1 codec. (to be written)
use std::marker::PhantomData;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;

pub struct Incoming<'c>(PhantomData<&'c ()>);
impl Incoming<'_> {
    pub fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        Poll::Ready(None)
    }
    pub fn trailers(&mut self) -> Option<Headers> {
        None
    }
    pub fn poll_idle(&mut self, _: &mut Context<'_>) {}
    pub fn length(&self) -> Option<u64> {
        None
    }
}
pub struct Answer<'c>(PhantomData<&'c ()>);
impl Answer<'_> {
    pub fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        Poll::Ready(None)
    }
    pub fn trailers(&mut self) -> Option<Headers> {
        None
    }
    pub fn poll_idle(&mut self, _: &mut Context<'_>) {}
    pub fn length(&self) -> Option<u64> {
        None
    }
}
