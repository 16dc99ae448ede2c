//! The two ends against each other, each against the h2 crate's own as a peer that does not behave, and both against tables of
//! bytes.

mod app;
mod attack;
mod client;
mod ends;
mod heads;
mod malformed;
mod oracle;
mod server;
mod tls;
mod windows;
mod wire;

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::DuplexStream;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::body::Body;
use crate::http::h2::Client;
use crate::http::h2::Ledger;
use crate::http::h2::Settings;
use crate::http::h2::serve;
use crate::http::h2::tests::app::App;
use crate::http::h2::tests::app::Served;
use crate::http::h2::tests::app::exchange;
use crate::http::h2::tests::app::get;
use crate::http::h2::tests::app::run;
use crate::http::h2::tests::app::run_paused;
use crate::http::h2::tests::app::served;
use crate::http::h2::tests::app::settings;
use crate::http::h2::tests::app::whole;
use crate::http::head::RequestHead;
use crate::timer::Timers;

async fn connect<T>(io: T, settings: &Settings, timers: &Timers) -> Client
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    std::future::ready(Client::connect(io, settings, timers)).await
}
