//! How decisions see a request: header fields in one buffer with an index, and a borrowed view of the rest. No library's
//! types appear here, so that `select` and `authorize` outlive any codec. It must never fold, sort or normalise a value.

/// Header fields in arrival order: one buffer of bytes and an index into it. Names keep their case and are compared
/// without it (RFC 9110 section 5.1). Removing leaves a hole in the buffer; `clear` keeps the memory for reuse.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    buf: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name_start: u32,
    value_start: u32,
    value_len: u32,
    name_len: u16,
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for so many bytes and fields, so that a codec allocates once.
    pub fn with_capacity(bytes: usize, fields: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), fields: Vec::with_capacity(fields) }
    }

    /// Appends a field, whether or not the name is there already. Names longer than 65,535 bytes are cut by no caller: the
    /// codec's limits are far below.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        debug_assert!(name.len() <= usize::from(u16::MAX), "the codecs bound names");
        let name_start = self.buf.len() as u32;
        self.buf.extend_from_slice(name);
        let value_start = self.buf.len() as u32;
        self.buf.extend_from_slice(value);
        self.fields.push(Field { name_start, value_start, value_len: value.len() as u32, name_len: name.len() as u16 });
    }

    /// Appends a field whose value `write` appends to the buffer: no copy of it is made elsewhere.
    pub fn push_with(&mut self, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let name_start = self.buf.len() as u32;
        self.buf.extend_from_slice(name);
        let value_start = self.buf.len() as u32;
        write(&mut self.buf);
        let value_len = (self.buf.len() as u32).saturating_sub(value_start);
        self.fields.push(Field { name_start, value_start, value_len, name_len: name.len() as u16 });
    }

    /// Gives every name to `change`, which may change the case of its letters.
    pub fn change_case(&mut self, mut change: impl FnMut(&mut [u8])) {
        for field in &self.fields {
            let start = field.name_start as usize;
            change(&mut self.buf[start..start + usize::from(field.name_len)]);
        }
    }

    /// Bytes of all names and values, holes included.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// The first value of the field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    /// Every value of the field, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Replaces every value of the field by one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.push(name.as_bytes(), value);
    }

    /// Removes every value of the field; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.retain(|n, _| !n.eq_ignore_ascii_case(name.as_bytes()));
        self.fields.len() != before
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let buf = &self.buf;
        self.fields.retain(|f| keep(f.name(buf), f.value(buf)));
    }

    /// Name and value of every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|f| (f.name(&self.buf), f.value(&self.buf)))
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub fn clear(&mut self) {
        self.buf.clear();
        self.fields.clear();
    }
}

impl Field {
    fn name<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let start = self.name_start as usize;
        &buf[start..start + usize::from(self.name_len)]
    }

    fn value<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let start = self.value_start as usize;
        &buf[start..start + self.value_len as usize]
    }
}

/// A request as `select` and `authorize` see it. `path` is exactly what will be forwarded, so that what is decided on and
/// what is sent cannot differ.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a str,
    /// `host` or `host:port`, as the client wrote it.
    pub authority: &'a str,
    /// Begins with `/`, or is `*`; without the query.
    pub path: &'a str,
    /// After `?`, undecoded.
    pub query: Option<&'a str>,
    pub headers: &'a Headers,
}

impl RequestView<'_> {
    /// Whether servers read the path differently: dot segments (also percent-encoded, also with parameters), empty
    /// segments, encoded separators, and percent-encoding of bytes that need none. What is decided on such a path need not
    /// be what the application serves.
    pub fn path_is_ambiguous(&self) -> bool {
        let path = self.path.as_bytes();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        let mut segment_start = 0;
        for (at, &b) in path.iter().enumerate() {
            match b {
                b'\\' => return true,
                b'%' => match path.get(at + 1..at + 3).and_then(encoded) {
                    Some(b'/' | b'\\' | 0) | None => return true,
                    Some(b) if plain(b) => return true,
                    Some(_) => {}
                },
                b'/' if at > 0 => {
                    let segment = &path[segment_start..at];
                    if segment.is_empty() || is_dots(segment) {
                        return true;
                    }
                }
                _ => {}
            }
            if b == b'/' {
                segment_start = at + 1;
            }
        }
        is_dots(&path[segment_start..])
    }
}

fn encoded(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(text, 16).ok()
}

/// `.` or `..`, with parameters or without.
fn is_dots(segment: &[u8]) -> bool {
    matches!(segment.split(|&b| b == b';').next(), Some(b"." | b".."))
}
