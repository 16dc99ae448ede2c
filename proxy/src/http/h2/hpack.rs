//! HPACK (RFC 7541) straight between bytes and the proxy's own fields: no map of headers between. It must never let the two
//! ends' tables differ, nor hold more than the agreed size.

pub(super) mod decode;
pub(super) mod encode;
mod huffman;
mod known;
#[cfg(test)]
mod tests;

use crate::http::h2::hpack::known::Kind as K;
pub(super) use crate::http::h2::hpack::known::Kind;

/// What both ends' tables hold at most: the protocol's default, so nothing needs to be said.
const TABLE_MAX: usize = 4096;
/// What an entry counts beside its texts.
const ENTRY: usize = 32;
/// Entries of the static table; dynamic ones follow.
const STATIC: usize = 61;

/// RFC 7541 appendix A.
static STATIC_TABLE: [(&str, &str, K); STATIC] = [
    (":authority", "", K::Authority),
    (":method", "GET", K::Method),
    (":method", "POST", K::Method),
    (":path", "/", K::Path),
    (":path", "/index.html", K::Path),
    (":scheme", "http", K::Scheme),
    (":scheme", "https", K::Scheme),
    (":status", "200", K::Status),
    (":status", "204", K::Status),
    (":status", "206", K::Status),
    (":status", "304", K::Status),
    (":status", "400", K::Status),
    (":status", "404", K::Status),
    (":status", "500", K::Status),
    ("accept-charset", "", K::Plain),
    ("accept-encoding", "gzip, deflate", K::Plain),
    ("accept-language", "", K::Plain),
    ("accept-ranges", "", K::Plain),
    ("accept", "", K::Plain),
    ("access-control-allow-origin", "", K::Plain),
    ("age", "", K::Plain),
    ("allow", "", K::Plain),
    ("authorization", "", K::Plain),
    ("cache-control", "", K::Plain),
    ("content-disposition", "", K::Plain),
    ("content-encoding", "", K::Plain),
    ("content-language", "", K::Plain),
    ("content-length", "", K::ContentLength),
    ("content-location", "", K::Plain),
    ("content-range", "", K::Plain),
    ("content-type", "", K::Plain),
    ("cookie", "", K::Cookie),
    ("date", "", K::Plain),
    ("etag", "", K::Plain),
    ("expect", "", K::Plain),
    ("expires", "", K::Plain),
    ("from", "", K::Plain),
    ("host", "", K::Host),
    ("if-match", "", K::Plain),
    ("if-modified-since", "", K::Plain),
    ("if-none-match", "", K::Plain),
    ("if-range", "", K::Plain),
    ("if-unmodified-since", "", K::Plain),
    ("last-modified", "", K::Plain),
    ("link", "", K::Plain),
    ("location", "", K::Plain),
    ("max-forwards", "", K::Plain),
    ("proxy-authenticate", "", K::Plain),
    ("proxy-authorization", "", K::Plain),
    ("range", "", K::Plain),
    ("referer", "", K::Plain),
    ("refresh", "", K::Plain),
    ("retry-after", "", K::Plain),
    ("server", "", K::Plain),
    ("set-cookie", "", K::Plain),
    ("strict-transport-security", "", K::Plain),
    ("transfer-encoding", "", K::Connection),
    ("user-agent", "", K::Plain),
    ("vary", "", K::Plain),
    ("via", "", K::Plain),
    ("www-authenticate", "", K::Plain),
];
