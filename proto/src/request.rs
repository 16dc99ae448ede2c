//! How decisions see a request: header fields in one buffer with an index, and a borrowed view of the rest. No library's
//! types appear here, so that `select` and `authorize` outlive any codec. It must never fold, sort or normalise a value.

/// Header fields in arrival order: one buffer of bytes and an index into it. Names keep their case and are compared
/// without it (RFC 9110 section 5.1). Removing leaves a hole in the buffer. The memory of a list that has ended serves the
/// next one of its thread.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    buf: Vec<u8>,
    fields: Vec<Field>,
    /// The marks of all names that are, or were, here: most questions are about names that never were.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name_start: u32,
    value_start: u32,
    value_len: u32,
    name_len: u16,
    mark: Mark,
}

/// A few bits of a name, the same for every case of its letters: names with different marks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u8);

impl Mark {
    #[inline]
    fn of(name: &[u8]) -> Self {
        let ([first, ..], [.., last]) = (name, name) else { return Self(0) };
        let spread = |byte: u8, factor: u8| (byte | 0x20).wrapping_mul(factor);
        Self(spread(*first, 5).wrapping_add(spread(*last, 19)).wrapping_add((name.len() as u8).wrapping_mul(11)) & 63)
    }

    #[inline]
    fn bit(self) -> u64 {
        1 << self.0
    }
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for so many bytes and fields, so that a codec allocates at most once.
    pub fn with_capacity(bytes: usize, fields: usize) -> Self {
        let (mut buf, mut index) = spare::take();
        buf.reserve(bytes);
        index.reserve(fields);
        Self { buf, fields: index, seen: 0 }
    }

    /// Appends a field, whether or not the name is there already. Names longer than 65,535 bytes are cut by no caller: the
    /// codec's limits are far below.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_with(name, |buf| buf.extend_from_slice(value));
    }

    /// Appends a field whose value `write` appends to the buffer: no copy of it is made elsewhere.
    pub fn push_with(&mut self, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(name.len() <= usize::from(u16::MAX), "the codecs bound names");
        let name_start = self.buf.len() as u32;
        self.buf.extend_from_slice(name);
        let value_start = self.buf.len() as u32;
        write(&mut self.buf);
        let value_len = (self.buf.len() as u32).saturating_sub(value_start);
        let mark = Mark::of(name);
        self.seen |= mark.bit();
        self.fields.push(Field { name_start, value_start, value_len, name_len: name.len() as u16, mark });
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
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mark = Mark::of(name.as_bytes());
        if self.seen & mark.bit() == 0 { None } else { self.find(name.as_bytes(), mark).map(|f| f.value(&self.buf)) }
    }

    fn find(&self, name: &[u8], mark: Mark) -> Option<&Field> {
        self.fields.iter().find(|field| field.is(&self.buf, name, mark))
    }

    /// Every value of the field, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mark = Mark::of(name.as_bytes());
        let fields = if self.seen & mark.bit() == 0 { &[] } else { &self.fields[..] };
        fields.iter().filter(move |f| f.is(&self.buf, name.as_bytes(), mark)).map(|f| f.value(&self.buf))
    }

    #[inline]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Replaces every value of the field by one, in its place where it fits there.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        if !self.overwrite(name, value) {
            self.remove(name);
            self.push(name.as_bytes(), value);
        }
    }

    /// Says whether there was one value, and of this length.
    fn overwrite(&mut self, name: &str, value: &[u8]) -> bool {
        let mark = Mark::of(name.as_bytes());
        if self.seen & mark.bit() == 0 {
            return false;
        }
        let mut same = self.fields.iter().filter(|field| field.is(&self.buf, name.as_bytes(), mark));
        let (Some(only), None) = (same.next(), same.next()) else { return false };
        let start = only.value_start as usize;
        let fits = only.value_len as usize == value.len();
        if fits {
            self.buf[start..start + value.len()].copy_from_slice(value);
        }
        fits
    }

    /// Removes every value of the field; says whether there was one.
    #[inline]
    pub fn remove(&mut self, name: &str) -> bool {
        let mark = Mark::of(name.as_bytes());
        self.seen & mark.bit() != 0 && self.take_out(name.as_bytes(), mark)
    }

    fn take_out(&mut self, name: &[u8], mark: Mark) -> bool {
        let before = self.fields.len();
        let buf = &self.buf;
        self.fields.retain(|field| !field.is(buf, name, mark));
        self.fields.len() != before
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let buf = &self.buf;
        self.fields.retain(|f| keep(f.name(buf), f.value(buf)));
    }

    /// Name and value of every field, in order.
    #[inline]
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
        self.seen = 0;
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.buf), std::mem::take(&mut self.fields));
    }
}

impl Field {
    #[inline]
    fn is(&self, buf: &[u8], name: &[u8], mark: Mark) -> bool {
        self.mark == mark && self.name(buf).eq_ignore_ascii_case(name)
    }

    #[inline]
    fn name<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let start = self.name_start as usize;
        &buf[start..start + usize::from(self.name_len)]
    }

    #[inline]
    fn value<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let start = self.value_start as usize;
        &buf[start..start + self.value_len as usize]
    }
}

/// The memory of lists that have ended, kept by their thread.
mod spare {
    use std::cell::RefCell;

    use super::Field;

    /// As many lists as a thread has in hand at once when it is busy.
    const LISTS: usize = 64;
    /// Larger ones are seldom, and not kept.
    const BYTES: usize = 4096;
    const FIELDS: usize = 64;

    type List = (Vec<u8>, Vec<Field>);

    thread_local! {
        static SPARE: RefCell<Vec<List>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn take() -> List {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    pub(super) fn give(mut buf: Vec<u8>, mut fields: Vec<Field>) {
        let fits = |capacity: usize, most: usize| capacity > 0 && capacity <= most;
        if !fits(buf.capacity(), BYTES) || !fits(fields.capacity(), FIELDS) {
            return;
        }
        buf.clear();
        fields.clear();
        // A thread that ends keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < LISTS {
                spare.push((buf, fields));
            }
        });
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
