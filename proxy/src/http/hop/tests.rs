//! The hop's engine held to the tests of the other one, word for word, and to tables of its own.

#[expect(clippy::duplicate_mod, reason = "both engines are held to the same tests")]
#[path = "../h2/tests/app.rs"]
mod app;
#[expect(clippy::duplicate_mod, reason = "both engines are held to the same tests")]
#[path = "../h2/tests/attack.rs"]
mod attack;
#[expect(clippy::duplicate_mod, reason = "both engines are held to the same tests")]
#[path = "../h2/tests/client.rs"]
mod client;
mod ends;
mod heads;
mod malformed;
mod oracle;
#[expect(clippy::duplicate_mod, reason = "both engines are held to the same tests")]
#[path = "../h2/tests/server.rs"]
mod server;
#[expect(clippy::duplicate_mod, reason = "both engines are held to the same tests")]
#[path = "../h2/tests/tls.rs"]
mod tls;

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::DuplexStream;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::body::Body;
use crate::http::h2::Ledger;
use crate::http::h2::Settings;
use crate::http::head::RequestHead;
use crate::http::hop::Client;
use crate::http::hop::serve;
use crate::http::hop::tests::app::App;
use crate::http::hop::tests::app::Served;
use crate::http::hop::tests::app::exchange;
use crate::http::hop::tests::app::get;
use crate::http::hop::tests::app::run;
use crate::http::hop::tests::app::served;
use crate::http::hop::tests::app::settings;
use crate::http::hop::tests::app::whole;
use crate::timer::Timers;

async fn connect<T>(io: T, settings: &Settings, timers: &Timers) -> Client
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    std::future::ready(Client::connect(io, settings, timers)).await
}
