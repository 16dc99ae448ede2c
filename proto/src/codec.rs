//! How messages are framed for the stream between the planes: with buffers no larger than what they hold, as a
//! session says little and lasts for days. It must never change what is on the wire.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic::codec::Codec;
use tonic_prost::ProstCodec;

/// What a buffer begins with, and grows by.
const BUFFER: usize = 1024;
/// Each message goes out by itself: a buffer keeps the size of the most that it ever held.
const TOGETHER: usize = 1;

/// As `ProstCodec`.
pub struct Frames<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Frames<T, U> {
    fn default() -> Self {
        Frames(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Frames<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, TOGETHER))
    }
}
