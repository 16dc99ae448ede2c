//! A body that arrives over HTTP/2, as its reader has it. It must never take a cut body for a whole one.

use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h2::Slot;
use crate::http::h2::client::Upload;
use crate::http::h2::handle::Handle;

pub struct Incoming<'c> {
    stream: Handle,
    /// Of an answer: the request's unsent rest, which goes on while the answer is read.
    upload: Option<Box<Upload<'c>>>,
    /// Of an answer: its place among the connection's streams.
    slot: Option<Slot>,
}

impl<'c> Incoming<'c> {
    pub(super) fn request(stream: Handle) -> Self {
        Self { stream, upload: None, slot: None }
    }

    pub(super) fn answer(stream: Handle, upload: Option<Box<Upload<'c>>>, slot: Slot) -> Self {
        Self { stream, upload, slot: Some(slot) }
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        if let Err(reason) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(reason)));
        }
        let polled = self.stream.poll_data(cx);
        if let (Poll::Ready(Some(Ok(bytes))), Some(slot)) = (&polled, &mut self.slot) {
            slot.moved(bytes.len());
        }
        polled
    }

    pub fn trailers(&mut self) -> Option<Headers> {
        self.stream.trailers()
    }

    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        // An error of the upload ends the body when it is read next.
        if let Err(reason) = self.poll_upload(cx) {
            self.stream.cut(reason);
        }
    }

    pub fn length(&self) -> Option<u64> {
        self.stream.length()
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Reason> {
        let (Some(upload), Some(slot)) = (&mut self.upload, &mut self.slot) else { return Ok(()) };
        match upload.poll(&self.stream, slot, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.upload = None;
                result
            }
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.stream.abandon();
    }
}
