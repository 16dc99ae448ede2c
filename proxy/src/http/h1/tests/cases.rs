//! The table: raw input, what the service must have seen of it, and where hyper is of another opinion, why.

use crate::http::h1::tests::outcome;
use crate::http::h1::tests::run;

pub(super) struct Case {
    pub name: &'static str,
    pub raw: &'static str,
    pub outcome: &'static str,
    /// Empty: hyper does the same.
    pub hyper: &'static str,
}

const fn case(name: &'static str, raw: &'static str, outcome: &'static str, hyper: &'static str) -> Case {
    Case { name, raw, outcome, hyper }
}

macro_rules! get {
    ($($fields:literal),*) => { concat!("GET / HTTP/1.1\r\nHost: a\r\n", $($fields, "\r\n",)* "\r\n") };
}

macro_rules! post {
    ($field:literal, $body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $field, "\r\n\r\n", $body)
    };
    ($field:literal, $other:literal, $body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $field, "\r\n", $other, "\r\n\r\n", $body)
    };
}

macro_rules! chunked {
    ($body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", $body)
    };
}

macro_rules! line {
    ($line:literal) => {
        concat!($line, "\r\nHost: a\r\n\r\n")
    };
}

macro_rules! host {
    ($host:literal) => {
        concat!("GET / HTTP/1.1\r\n", $host, "\r\n\r\n")
    };
}

// Where hyper is of another opinion, and why we are not of its.
const LINES: &str = "takes a bare LF for a line end, and any number of empty lines before a request";
const HOST: &str =
    "leaves Host to the application: policy could be asked about one host and the application serve another";
const TARGET: &str =
    "takes targets of other forms than the method's, drops fragments and leaves the forms as they came";
const FRAMING: &str =
    "takes Transfer-Encoding over Content-Length, equal or padded lengths, and lookalikes as other fields";
const CODING: &str = "asks only whether the last coding is chunked";
const CONNECTION: &str = "reads close and keep-alive in Connection, and leaves the rest to the application";
const CHUNKS: &str = "takes white space after a size, any number of zeros before it, and any byte in an extension";
const TRAILERS: &str = "hands on every trailer; whoever merges them into the head is framed or impersonated";
const EXPECT: &str = "looks for one exact value and ignores what else is there";

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // Plain requests, and several on one connection.
    case("get", get!(), "GET a /", ""),
    case("two pipelined", concat!(get!(), get!()), "GET a / | GET a /", ""),
    case("five pipelined", concat!(get!(), get!(), get!(), get!(), get!()), "GET a / | GET a / | GET a / | GET a / | GET a /", ""),
    case("body then get", concat!(post!("Content-Length: 3", "abc"), get!()), "POST a / [abc] | GET a /", ""),
    case("chunks then get", concat!(chunked!("3\r\nabc\r\n0\r\n\r\n"), get!()), "POST a / [abc] | GET a /", ""),
    case("get with a body", concat!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", get!()), "GET a / [hi] | GET a /", ""),
    case("options with a body", "OPTIONS /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "OPTIONS a /x [hi]", ""),
    case("empty body by length", concat!(post!("Content-Length: 0", ""), get!()), "POST a / | GET a /", ""),
    case("post without framing", concat!(post!("X: y", ""), get!()), "POST a / | GET a /", ""),
    case("close ends pipelining", concat!(get!("Connection: close"), get!()), "GET a /", ""),
    case("close in a list", concat!(get!("Connection: x, close"), get!()), "GET a /", ""),
    case("Close in capitals", concat!(get!("Connection: CLOSE"), get!()), "GET a /", ""),
    case("two Connection fields", concat!(get!("Connection: x", "Connection: close"), get!()), "GET a /", ""),
    case("keep-alive on 1.1", concat!(get!("Connection: keep-alive"), get!()), "GET a / | GET a /", ""),
    case("garbage after a request", concat!(get!(), "\x01\x02\r\n\r\n"), "GET a / | 400", ""),
    case("one empty line before", concat!("\r\n", get!()), "GET a /", ""),
    case("one empty line between", concat!(get!(), "\r\n", get!()), "GET a / | GET a /", ""),
    case("two empty lines before", concat!("\r\n\r\n", get!()), "400", LINES),
    case("lf before", concat!("\n", get!()), "400", LINES),
    case("cr before", concat!("\r", get!()), "400", ""),
    case("space before", concat!(" ", get!()), "400", ""),
    case("nothing", "", "", ""),
    case("an empty line alone", "\r\n", "", ""),
    case("half a head", "GET / HTTP/1.1\r\nHost: a\r\n", "", ""),
    case("half a line", "GET / HT", "", ""),

    // HTTP/1.0.
    case("1.0", "GET / HTTP/1.0\r\n\r\n", "GET  /", ""),
    case("1.0 closes", concat!("GET / HTTP/1.0\r\nHost: a\r\n\r\n", get!()), "GET a /", ""),
    case("1.0 keeps alive when asked", concat!("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", get!()), "GET a / | GET a /", ""),
    case("1.0 keep-alive and close", concat!("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", get!()), "GET a /", ""),
    case("1.0 with a length", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "POST a / [hi]", ""),
    case("1.0 chunked", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", ""),
    case("1.0 chunked keep-alive", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", ""),
    case("1.0 two hosts", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400", HOST),
    case("1.0 upgrade is ignored", "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET a /", ""),
    case("1.0 expect is ignored", "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "POST a / [hi]", ""),

    // Request line.
    case("0.9", "GET /\r\n\r\n", "400", ""),
    case("2.0", line!("GET / HTTP/2.0"), "505", ""),
    case("preface of h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", ""),
    case("1.2", line!("GET / HTTP/1.2"), "505", ""),
    case("3.0", line!("GET / HTTP/3.0"), "505", ""),
    case("version in small letters", line!("GET / http/1.1"), "400", ""),
    case("version with more digits", line!("GET / HTTP/1.10"), "400", ""),
    case("version cut", line!("GET / HTTP/1"), "400", ""),
    case("version with junk", line!("GET / HTTP/1.1x"), "400", ""),
    case("another protocol", line!("GET / ICY/1.1"), "400", ""),
    case("no version", line!("GET / "), "400", ""),
    case("two spaces after method", line!("GET  / HTTP/1.1"), "400", ""),
    case("two spaces before version", line!("GET /  HTTP/1.1"), "400", ""),
    case("tab after method", line!("GET\t/ HTTP/1.1"), "400", ""),
    case("space after version", line!("GET / HTTP/1.1 "), "400", ""),
    case("space in target", line!("GET /a b HTTP/1.1"), "400", ""),
    case("only a method", line!("GET"), "400", ""),
    case("empty method", line!(" / HTTP/1.1"), "400", ""),
    case("method in small letters", line!("get / HTTP/1.1"), "get a /", ""),
    case("method of one's own", line!("M-SEARCH / HTTP/1.1"), "M-SEARCH a /", ""),
    case("method with punctuation", line!("!#$%&'*+-.^_`|~ / HTTP/1.1"), "!#$%&'*+-.^_`|~ a /", ""),
    case("method with a colon", line!("GE:T / HTTP/1.1"), "400", ""),
    case("method with a slash", line!("GE/T / HTTP/1.1"), "400", ""),
    case("method with a control byte", line!("GE\x01T / HTTP/1.1"), "400", ""),
    case("cr in the request line", line!("GET /\r HTTP/1.1"), "400", ""),
    case("nul in the target", line!("GET /\x00 HTTP/1.1"), "400", ""),
    case("nul in the method", line!("G\x00T / HTTP/1.1"), "400", ""),
    case("tls client hello", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", "400", ""),

    // Target.
    case("query", line!("GET /a?b=c&d HTTP/1.1"), "GET a /a?b=c&d", ""),
    case("question marks", line!("GET /a?b?c HTTP/1.1"), "GET a /a?b?c", ""),
    case("percent", line!("GET /%2e%2e/%00 HTTP/1.1"), "GET a /%2e%2e/%00", ""),
    case("dots are left alone", line!("GET /a/../b//c/. HTTP/1.1"), "GET a /a/../b//c/.", ""),
    case("parameters", line!("GET /a;b=c HTTP/1.1"), "GET a /a;b=c", ""),
    case("fragment", line!("GET /a#b HTTP/1.1"), "400", TARGET),
    case("fragment in query", line!("GET /a?b#c HTTP/1.1"), "400", TARGET),
    case("fragment alone", line!("GET # HTTP/1.1"), "400", ""),
    case("backslash in path", line!("GET /a\\..\\b HTTP/1.1"), "400", TARGET),
    case("backslash in query", line!("GET /a?b\\c HTTP/1.1"), "GET a /a?b\\c", ""),
    case("angle brackets", line!("GET /<a> HTTP/1.1"), "400", ""),
    case("braces", line!("GET /{a} HTTP/1.1"), "GET a /{a}", ""),
    case("pipe", line!("GET /a|b HTTP/1.1"), "GET a /a|b", ""),
    case("raw utf-8", line!("GET /\u{e9} HTTP/1.1"), "400", TARGET),
    case("delete byte", line!("GET /\x7f HTTP/1.1"), "400", ""),
    case("relative", line!("GET a HTTP/1.1"), "400", TARGET),
    case("query without path", line!("GET ?a HTTP/1.1"), "400", ""),
    case("asterisk for options", line!("OPTIONS * HTTP/1.1"), "OPTIONS a *", ""),
    case("asterisk for get", line!("GET * HTTP/1.1"), "400", TARGET),
    case("two slashes", line!("GET //b/c HTTP/1.1"), "GET a //b/c", ""),
    case("absolute", line!("GET http://b/c HTTP/1.1"), "GET b /c", ""),
    case("absolute with port", line!("GET http://b:80/c?d HTTP/1.1"), "GET b:80 /c?d", ""),
    case("absolute https", line!("GET https://b/c HTTP/1.1"), "GET b /c", ""),
    case("absolute in capitals", line!("GET HTTP://B/c HTTP/1.1"), "GET B /c", ""),
    case("absolute without path", line!("GET http://b HTTP/1.1"), "GET b /", ""),
    case("absolute with query alone", line!("GET http://b?c HTTP/1.1"), "GET b /?c", TARGET),
    case("absolute options", line!("OPTIONS http://b HTTP/1.1"), "OPTIONS b *", TARGET),
    case("absolute without host field", "GET http://b/ HTTP/1.1\r\n\r\n", "400", HOST),
    case("absolute user information", line!("GET http://u@b/ HTTP/1.1"), "400", HOST),
    case("absolute password", line!("GET http://u:p@b/ HTTP/1.1"), "400", HOST),
    case("absolute without authority", line!("GET http:///c HTTP/1.1"), "400", ""),
    case("absolute with fragment", line!("GET http://b/#c HTTP/1.1"), "400", TARGET),
    case("absolute with a backslash", line!("GET http://b\\c/ HTTP/1.1"), "400", ""),
    case("another scheme", line!("GET ftp://b/ HTTP/1.1"), "400", TARGET),
    case("scheme without slashes", line!("GET http:b HTTP/1.1"), "400", TARGET),
    case("v6 authority", line!("GET http://[::1]:80/ HTTP/1.1"), "GET [::1]:80 /", ""),
    case("v6 authority open", line!("GET http://[::1/ HTTP/1.1"), "400", ""),
    case("connect", line!("CONNECT b:443 HTTP/1.1"), "CONNECT b:443 ", ""),
    case("connect without port", line!("CONNECT b HTTP/1.1"), "400", TARGET),
    case("connect with empty port", line!("CONNECT b: HTTP/1.1"), "400", TARGET),
    case("connect with a path", line!("CONNECT /a HTTP/1.1"), "400", TARGET),
    case("connect absolute", line!("CONNECT http://b:443 HTTP/1.1"), "400", TARGET),
    case("connect user information", line!("CONNECT u@b:443 HTTP/1.1"), "400", TARGET),
    case("connect with a body", "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nContent-Length: 2\r\n\r\nhi", "400", FRAMING),
    case("connect chunked", "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", FRAMING),

    // Host.
    case("no host", "GET / HTTP/1.1\r\n\r\n", "400", HOST),
    case("two hosts", host!("Host: a\r\nHost: b"), "400", HOST),
    case("the same host twice", host!("Host: a\r\nhost: a"), "400", HOST),
    case("empty host", host!("Host:"), "GET  /", ""),
    case("host with port", host!("Host: a:80"), "GET a:80 /", ""),
    case("host with empty port", host!("Host: a:"), "GET a: /", ""),
    case("host port too large", host!("Host: a:65536"), "400", HOST),
    case("host port of letters", host!("Host: a:b"), "400", HOST),
    case("host two ports", host!("Host: a:1:2"), "400", HOST),
    case("host only port", host!("Host: :80"), "400", HOST),
    case("host user information", host!("Host: u@a"), "400", HOST),
    case("host with path", host!("Host: a/b"), "400", HOST),
    case("host with query", host!("Host: a?b"), "400", HOST),
    case("host with fragment", host!("Host: a#b"), "400", HOST),
    case("host list", host!("Host: a, b"), "400", HOST),
    case("host list without space", host!("Host: a,b"), "400", HOST),
    case("host with space", host!("Host: a b"), "400", HOST),
    case("host with underscore", host!("Host: a_b"), "GET a_b /", ""),
    case("host with percent", host!("Host: a%41"), "GET a%41 /", ""),
    case("host in v6", host!("Host: [fd00::1]:8080"), "GET [fd00::1]:8080 /", ""),
    case("host v6 without brackets", host!("Host: fd00::1"), "400", HOST),
    case("host of obs-text", host!("Host: \u{e9}"), "400", HOST),
    case("host with a zone", host!("Host: [fe80::1%25eth0]"), "400", HOST),
    case("host with backslash", host!("Host: a\\b"), "400", HOST),

    // Line ends and field lines.
    case("bare lf after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "400", LINES),
    case("bare lf after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", "400", LINES),
    case("bare lf at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400", LINES),
    case("only lf", "GET / HTTP/1.1\nHost: a\n\n", "400", LINES),
    case("cr cr lf", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "400", ""),
    case("bare cr between fields", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", "400", ""),
    case("bare cr before the end", "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", "400", ""),
    case("bare cr in a name", get!("X\rY: z"), "400", ""),
    case("nul in a value", get!("X: a\x00b"), "400", ""),
    case("control byte in a value", get!("X: a\x07b"), "400", ""),
    case("vertical tab in a value", get!("X: a\x0bb"), "400", ""),
    case("delete in a value", get!("X: a\x7fb"), "400", ""),
    case("tab in a value", get!("X: a\tb"), "GET a /", ""),
    case("obs-text in a value", get!("X: caf\u{e9}"), "GET a /", ""),
    case("empty value", get!("X:"), "GET a /", ""),
    case("value of spaces", get!("X:  \t "), "GET a /", ""),
    case("no space after colon", get!("X:y"), "GET a /", ""),
    case("space before colon", get!("X : y"), "400", ""),
    case("tab before colon", get!("X\t: y"), "400", ""),
    case("space in a name", get!("X Y: z"), "400", ""),
    case("no colon", get!("X"), "400", ""),
    case("no name", get!(": y"), "400", ""),
    case("folded line", get!("X: y", " z"), "400", ""),
    case("folded with tab", get!("X: y", "\tz"), "400", ""),
    case("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400", ""),
    case("line of spaces", get!("X: y", "  "), "400", ""),
    case("name with obs-text", get!("X\u{e9}: y"), "400", ""),
    case("name with brackets", get!("X[]: y"), "400", ""),
    case("name with a comma", get!("X,Y: z"), "400", ""),
    case("name with nul", get!("X\x00: z"), "400", ""),
    case("name with underscore", get!("X_Y: z"), "GET a /", ""),
    case("name of punctuation", get!("!#$%&'*+-.^_`|~: z"), "GET a /", ""),

    // Content-Length.
    case("length", post!("Content-Length: 3", "abc"), "POST a / [abc]", ""),
    case("length in small letters", post!("content-length: 3", "abc"), "POST a / [abc]", ""),
    case("length and more bytes", concat!(post!("Content-Length: 3", "abc"), "G"), "POST a / [abc]", ""),
    case("length cut", post!("Content-Length: 5", "abc"), "POST a / [abc!ClientGone]", ""),
    case("length without a byte", post!("Content-Length: 5", ""), "POST a / [!ClientGone]", ""),
    case("two lengths", post!("Content-Length: 3", "Content-Length: 3", "abc"), "400", FRAMING),
    case("two different lengths", post!("Content-Length: 3", "Content-Length: 4", "abcd"), "400", ""),
    case("length list", post!("Content-Length: 3, 3", "abc"), "400", ""),
    case("length list without space", post!("Content-Length: 3,3", "abc"), "400", ""),
    case("length empty", post!("Content-Length:", "abc"), "400", ""),
    case("length plus", post!("Content-Length: +3", "abc"), "400", ""),
    case("length minus", post!("Content-Length: -3", "abc"), "400", ""),
    case("length minus zero", post!("Content-Length: -0", ""), "400", ""),
    case("length hex", post!("Content-Length: 0x3", "abc"), "400", ""),
    case("length of letters", post!("Content-Length: abc", "abc"), "400", ""),
    case("length of two numbers", post!("Content-Length: 3 3", "abc"), "400", ""),
    case("length leading zero", post!("Content-Length: 03", "abc"), "400", FRAMING),
    case("length zeros", post!("Content-Length: 00", ""), "400", FRAMING),
    case("length with a fraction", post!("Content-Length: 3.0", "abc"), "400", ""),
    case("length exponent", post!("Content-Length: 3e0", "abc"), "400", ""),
    case("length with underscore", post!("Content-Length: 1_0", "abc"), "400", ""),
    case("length quoted", post!("Content-Length: \"3\"", "abc"), "400", ""),
    case("length at 2^63", post!("Content-Length: 9223372036854775808", "abc"), "400", FRAMING),
    case("length at 2^64 and 3", post!("Content-Length: 18446744073709551619", "abc"), "400", ""),
    case("length of twenty nines", post!("Content-Length: 99999999999999999999", "abc"), "400", ""),
    case("length with vertical tab", post!("Content-Length: \x0b3", "abc"), "400", ""),
    case("length in a lookalike", post!("Content_Length: 3", "abc"), "400", FRAMING),
    case("length folded", post!("Content-Length:", " 3", "abc"), "400", ""),
    case("length with space before colon", post!("Content-Length : 3", "abc"), "400", ""),
    case("length nominated", post!("Content-Length: 3", "Connection: content-length", "abc"), "400", CONNECTION),

    // Transfer-Encoding.
    case("chunked", chunked!("3\r\nabc\r\n0\r\n\r\n"), "POST a / [abc]", ""),
    case("Chunked in capitals", post!("Transfer-Encoding: CHUNKED", "3\r\nabc\r\n0\r\n\r\n"), "POST a / [abc]", ""),
    case("name in small letters", post!("transfer-encoding: chunked", "0\r\n\r\n"), "POST a /", ""),
    case("length beside chunked", post!("Content-Length: 3", "Transfer-Encoding: chunked", "0\r\n\r\n"), "400", FRAMING),
    case("chunked beside length", post!("Transfer-Encoding: chunked", "Content-Length: 3", "0\r\n\r\n"), "400", FRAMING),
    case("length zero beside chunked", post!("Content-Length: 0", "Transfer-Encoding: chunked", "0\r\n\r\n"), "400", FRAMING),
    case("length beside identity", post!("Content-Length: 3", "Transfer-Encoding: identity", "abc"), "400", ""),
    case("length beside unknown coding", post!("Content-Length: 3", "Transfer-Encoding: x", "abc"), "400", ""),
    case("bad length beside chunked", post!("Content-Length: x", "Transfer-Encoding: chunked", "0\r\n\r\n"), "400", ""),
    case("chunked twice", post!("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", "0\r\n\r\n"), "400", CODING),
    case("chunked twice in a list", post!("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), "400", CODING),
    case("chunked and identity fields", post!("Transfer-Encoding: chunked", "Transfer-Encoding: identity", "0\r\n\r\n"), "400", ""),
    case("chunked then identity", post!("Transfer-Encoding: chunked, identity", "0\r\n\r\n"), "400", ""),
    case("identity then chunked", post!("Transfer-Encoding: identity, chunked", "0\r\n\r\n"), "400", CODING),
    case("identity", post!("Transfer-Encoding: identity", ""), "400", ""),
    case("gzip then chunked", post!("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), "501", CODING),
    case("gzip", post!("Transfer-Encoding: gzip", "0\r\n\r\n"), "400", ""),
    case("xchunked", post!("Transfer-Encoding: xchunked", "0\r\n\r\n"), "400", ""),
    case("chunkedx", post!("Transfer-Encoding: chunkedx", "0\r\n\r\n"), "400", ""),
    case("empty coding", post!("Transfer-Encoding:", "0\r\n\r\n"), "400", ""),
    case("comma before", post!("Transfer-Encoding: ,chunked", "0\r\n\r\n"), "400", CODING),
    case("comma after", post!("Transfer-Encoding: chunked,", "0\r\n\r\n"), "400", ""),
    case("chunked quoted", post!("Transfer-Encoding: \"chunked\"", "0\r\n\r\n"), "400", ""),
    case("chunked with parameter", post!("Transfer-Encoding: chunked;q=1", "0\r\n\r\n"), "400", ""),
    case("chunked after vertical tab", post!("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), "400", ""),
    case("chunked before form feed", post!("Transfer-Encoding: chunked\x0c", "0\r\n\r\n"), "400", ""),
    case("chunked before nul", post!("Transfer-Encoding: chunked\x00", "0\r\n\r\n"), "400", ""),
    case("chunked after obs-text", post!("Transfer-Encoding: \u{a0}chunked", "0\r\n\r\n"), "400", ""),
    case("chunked after tab", post!("Transfer-Encoding:\tchunked", "0\r\n\r\n"), "POST a /", ""),
    case("chunked before space", post!("Transfer-Encoding: chunked ", "0\r\n\r\n"), "POST a /", ""),
    case("coding with space before colon", post!("Transfer-Encoding : chunked", "0\r\n\r\n"), "400", ""),
    case("coding with cr before colon", post!("Transfer-Encoding\r: chunked", "0\r\n\r\n"), "400", ""),
    case("coding folded", post!("Transfer-Encoding:", " chunked", "0\r\n\r\n"), "400", ""),
    case("coding in a lookalike", post!("Transfer_Encoding: chunked", "0\r\n\r\n"), "400", FRAMING),
    case("coding nominated", post!("Transfer-Encoding: chunked", "Connection: transfer-encoding", "0\r\n\r\n"), "400", CONNECTION),
    case("host nominated", get!("Connection: host"), "400", CONNECTION),
    case("coding on get", concat!("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", get!()), "GET a / | GET a /", ""),

    // Chunks.
    case("no chunks", chunked!("0\r\n\r\n"), "POST a /", ""),
    case("three chunks", chunked!("1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n"), "POST a / [abcdef]", ""),
    case("hex in both cases", chunked!("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"), "POST a / [01234567890123456789]", ""),
    case("size leading zeros", chunked!("0003\r\nabc\r\n000\r\n\r\n"), "POST a / [abc]", ""),
    case("size of seventeen digits", chunked!("00000000000000003\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("size overflows", chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size of all bits", chunked!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("size plus", chunked!("+3\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size minus", chunked!("-3\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size 0x", chunked!("0x3\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size with underscore", chunked!("0_3\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size after space", chunked!(" 3\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size before space", chunked!("3 \r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("size before tab", chunked!("3\t\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("size empty", chunked!("\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size not hex", chunked!("g\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size ends in lf", chunked!("3\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size ends in cr", chunked!("3\rabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("size ends in cr cr lf", chunked!("3\r\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("data ends in lf", chunked!("3\r\nabc\n0\r\n\r\n"), "POST a / [abc!BadFraming]", ""),
    case("data without end", chunked!("3\r\nabc0\r\n\r\n"), "POST a / [abc!BadFraming]", ""),
    case("data too long", chunked!("3\r\nabcd\r\n0\r\n\r\n"), "POST a / [abc!BadFraming]", ""),
    case("data ends in two other bytes", chunked!("3\r\nabcXX0\r\n\r\n"), "POST a / [abc!BadFraming]", ""),
    case("last chunk ends in lf", chunked!("0\n\n"), "POST a / [!BadFraming]", ""),
    case("trailers end in lf", chunked!("0\r\n\n"), "POST a / [!BadFraming]", ""),
    case("no last chunk", chunked!("3\r\nabc\r\n"), "POST a / [abc!ClientGone]", ""),
    case("no end after last chunk", chunked!("3\r\nabc\r\n0\r\n"), "POST a / [abc!ClientGone]", ""),
    case("chunk cut", chunked!("5\r\nabc"), "POST a / [abc!ClientGone]", ""),
    case("extension", chunked!("3;a=b\r\nabc\r\n0;c\r\n\r\n"), "POST a / [abc]", ""),
    case("extension quoted", chunked!("3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n"), "POST a / [abc]", ""),
    case("extension with spaces", chunked!("3; a = b\r\nabc\r\n0\r\n\r\n"), "POST a / [abc]", ""),
    case("space before an extension", chunked!("3 ;a\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("extension ends in lf", chunked!("3;a\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("extension with cr", chunked!("3;a\rb\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("extension with nul", chunked!("3;a\x00b\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", CHUNKS),
    case("extension quotes a line end", chunked!("3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n"), "POST a / [\"\r\n!BadFraming]", ""),
    case("comma instead of semicolon", chunked!("3,a\r\nabc\r\n0\r\n\r\n"), "POST a / [!BadFraming]", ""),

    // Trailers.
    case("trailer", chunked!("0\r\nX-Sum: 1\r\n\r\n"), "POST a / +X-Sum:1", ""),
    case("two trailers", chunked!("3\r\nabc\r\n0\r\nA: 1\r\nB: 2\r\n\r\n"), "POST a / [abc] +A:1 +B:2", ""),
    case("framing in trailers", chunked!("0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n"), "POST a /", TRAILERS),
    case("credentials in trailers", chunked!("0\r\nAuthorization: x\r\nCookie: y\r\nleno-hop: z\r\nX-Forwarded-For: q\r\n\r\n"), "POST a /", TRAILERS),
    case("connection in trailers", chunked!("0\r\nConnection: close\r\nUpgrade: x\r\nTE: y\r\n\r\n"), "POST a /", TRAILERS),
    case("trailer without colon", chunked!("0\r\nX\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("trailer ends in lf", chunked!("0\r\nX: y\n\r\n"), "POST a / [!BadFraming]", ""),
    case("trailer folded", chunked!("0\r\nX: y\r\n z\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("trailer with space before colon", chunked!("0\r\nX : y\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("trailer with nul", chunked!("0\r\nX: \x00\r\n\r\n"), "POST a / [!BadFraming]", ""),
    case("a request instead of the last line end", chunked!("0\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"), "POST a / [!BadFraming]", ""),

    // Smuggling, as it was done to others.
    case("cl.te", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "400", FRAMING),
    case("te.cl", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n", "400", FRAMING),
    case("te.te", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n", "400", ""),
    case("te hidden by a line end", "POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0", "400", LINES),
    case("cl.0", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\nGET /admin HTTP/1.1\r\nHost: b\r\n\r\n", "POST a / [GET /admin HTTP/1.1\r\nHost: b\r\n\r\n]", ""),
    case("funky chunk size", chunked!("2\r\nab\r\n0;\n\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"), "POST a / [ab!BadFraming]", ""),
    case("expect and coding", post!("Expect: 100-continue", "Content-Length: 3", "abc"), "POST a / [abc]", ""),

    // Expect, Upgrade, TE.
    case("expect something else", post!("Expect: 200-ok", "Content-Length: 3", "abc"), "417", EXPECT),
    case("expect with junk before", post!("Expect: y 100-continue", "Content-Length: 3", "abc"), "417", EXPECT),
    case("expect twice", post!("Expect: 100-continue", "Expect: 100-continue", ""), "417", EXPECT),
    case("expect list", post!("Expect: 100-continue, x", "Content-Length: 3", "abc"), "417", EXPECT),
    case("expect in capitals", post!("Expect: 100-CONTINUE", "Content-Length: 3", "abc"), "POST a / [abc]", ""),
    case("expect without a body", get!("Expect: 100-continue"), "GET a /", ""),
    case("upgrade", get!("Connection: Upgrade", "Upgrade: websocket"), "GET a /", ""),
    case("upgrade with a body", post!("Connection: Upgrade\r\nUpgrade: websocket", "Content-Length: 3", "abc"), "400", CONNECTION),
    case("upgrade with chunks", post!("Connection: Upgrade\r\nUpgrade: websocket", "Transfer-Encoding: chunked", "0\r\n\r\n"), "400", CONNECTION),
    case("upgrade not in connection", post!("Upgrade: websocket", "Content-Length: 3", "abc"), "POST a / [abc]", ""),
    case("upgrade to h2c", get!("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), "GET a /", ""),
    case("upgrade to h2c with a body", post!("Connection: Upgrade\r\nUpgrade: h2c", "Content-Length: 3", "abc"), "POST a / [abc]", ""),
    case("upgrade twice", get!("Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"), "400", CONNECTION),
    case("upgrade of no token", get!("Connection: Upgrade", "Upgrade: web socket"), "400", CONNECTION),
    case("connection of no token", get!("Connection: a b"), "400", CONNECTION),
    case("connection with empty members", get!("Connection: , ,keep-alive,"), "GET a /", ""),
];

#[test]
fn every_input_has_its_outcome() {
    let mut wrong = String::new();
    run(async {
        for case in CASES {
            let (found, _) = outcome(&[case.raw.as_bytes()]).await;
            if found != case.outcome {
                wrong.push_str(&format!("{}: wanted {:?}, found {found:?}\n", case.name, case.outcome));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong}");
    assert!(CASES.len() >= 200, "{}", CASES.len());
}

#[test]
fn the_outcome_does_not_depend_on_where_the_bytes_are_split() {
    run(async {
        for case in CASES {
            let raw = case.raw.as_bytes();
            for at in 0..raw.len() {
                let (found, _) = outcome(&[&raw[..at], &raw[at..]]).await;
                assert_eq!(found, case.outcome, "{} split at {at}", case.name);
            }
            let bytes: Vec<&[u8]> = raw.chunks(1).collect();
            let (found, _) = outcome(&bytes).await;
            assert_eq!(found, case.outcome, "{} byte by byte", case.name);
        }
    });
}
