//! Fields into a header block. Heads of one connection repeat, so the fields of the last head are looked at first, in their
//! order: most are found at the first look. It must never index a secret, nor give the peer's table more than it allows.

use std::collections::VecDeque;
use std::hash::Hasher;

use crate::http::h2::hpack::ENTRY;
use crate::http::h2::hpack::STATIC;
use crate::http::h2::hpack::TABLE_MAX;
use crate::http::h2::hpack::known;
use crate::http::h2::hpack::known::Way;
use crate::quick::Quick;

/// The field cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http::h2) struct Unsayable;

pub(in crate::http::h2) struct Encoder {
    /// Oldest first, as the peer's table holds them once it has read what was written.
    table: VecDeque<Entry>,
    /// How many entries there ever were before those of the table.
    gone: usize,
    size: usize,
    max: usize,
    /// The peer is to be told the table's size: the smallest since it was told last.
    update: Option<usize>,
    /// Entries of the last head, counted from the first ever, in the order of its fields; and of the head in hand.
    last: Vec<usize>,
    now: Vec<usize>,
    /// The next field's place in `last`, if heads repeat.
    next: usize,
    /// Hashes of fields that were written once and are worth an entry if they come again.
    seen: [u32; SEEN],
    memory: Vec<u8>,
}

struct Entry {
    text: Box<[u8]>,
    name: usize,
    hash: u32,
}

impl Entry {
    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        let (ours, text) = self.text.split_at(self.name);
        text == value && (ours == name || ours.eq_ignore_ascii_case(name))
    }

    fn size(&self) -> usize {
        self.text.len() + ENTRY
    }
}

impl Encoder {
    pub(in crate::http::h2) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            gone: 0,
            size: 0,
            max: TABLE_MAX,
            update: None,
            last: Vec::new(),
            now: Vec::new(),
            next: 0,
            seen: [0; SEEN],
            memory: Vec::new(),
        }
    }

    /// The peer's table holds so much.
    pub(in crate::http::h2) fn resize(&mut self, max: usize) {
        let max = max.min(TABLE_MAX);
        if max == self.max && self.update.is_none() {
            return;
        }
        self.max = max;
        self.update = Some(self.update.unwrap_or(max).min(max));
        self.make_room(0);
    }

    /// A head begins.
    pub(in crate::http::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.update.take() {
            if smallest < self.max {
                int(out, 0x20, 5, smallest);
            }
            int(out, 0x20, 5, self.max);
        }
        std::mem::swap(&mut self.last, &mut self.now);
        self.now.clear();
        self.next = 0;
    }

    /// The head in hand is not sent: what it put into our table the peer never sees, so both begin anew.
    pub(in crate::http::h2) fn undo(&mut self) {
        self.gone += self.table.len();
        self.table.clear();
        self.size = 0;
        self.now.clear();
        self.update = Some(0);
    }

    /// A field of the static table as it stands there.
    pub(in crate::http::h2) fn fixed(&self, out: &mut Vec<u8>, index: u8) {
        out.push(0x80 | index);
    }

    pub(in crate::http::h2) fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), Unsayable> {
        if self.is_next(out, name, value) {
            return Ok(());
        }
        let mut memory = std::mem::take(&mut self.memory);
        let said = match known::lower(name, &mut memory) {
            Some(name) if known::is_value(value) => {
                self.say(out, name, value);
                Ok(())
            }
            Some(_) | None => Err(Unsayable),
        };
        self.memory = memory;
        said
    }

    /// A pseudo-header whose value the caller has judged.
    pub(in crate::http::h2) fn pseudo(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        if !self.is_next(out, name, value) {
            self.say(out, name, value);
        }
    }

    /// Whether it is the field that came here in the last head; then it is said.
    fn is_next(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
        let Some(&id) = self.last.get(self.next) else { return false };
        let Some(entry) = id.checked_sub(self.gone).and_then(|at| self.table.get(at)) else { return false };
        if !entry.is(name, value) {
            return false;
        }
        self.next += 1;
        self.hit(out, id);
        true
    }

    fn hit(&mut self, out: &mut Vec<u8>, id: usize) {
        self.now.push(id);
        int(out, 0x80, 7, STATIC + self.gone + self.table.len() - id);
    }

    fn say(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        match known::way(name) {
            Way::Not => {}
            Way::Te if !value.trim_ascii().eq_ignore_ascii_case(b"trailers") => {}
            Way::Never(place) => literal(out, 0x10, 4, place, name, value),
            Way::Once(place) => literal(out, 0, 4, place, name, value),
            Way::Te => self.index(out, 0, name, value),
            Way::Index(place) => self.index(out, place, name, value),
        }
    }

    fn index(&mut self, out: &mut Vec<u8>, place: u8, name: &[u8], value: &[u8]) {
        let hash = hash(name, value);
        let found = self.table.iter().position(|entry| entry.hash == hash && entry.is(name, value));
        if let Some(at) = found {
            let id = self.gone + at;
            if let Some(was) = self.last.iter().position(|last| *last == id) {
                self.next = was + 1;
            }
            return self.hit(out, id);
        }
        let seen = &mut self.seen[hash as usize % SEEN];
        let size = name.len() + value.len() + ENTRY;
        if std::mem::replace(seen, hash) != hash || size > self.max / 4 {
            return literal(out, 0, 4, place, name, value);
        }
        literal(out, 0x40, 6, place, name, value);
        self.make_room(size);
        self.now.push(self.gone + self.table.len());
        self.table.push_back(Entry { text: [name, value].concat().into_boxed_slice(), name: name.len(), hash });
        self.size += size;
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.max {
            let Some(oldest) = self.table.pop_front() else { return };
            self.gone += 1;
            self.size -= oldest.size();
        }
    }
}

fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut hasher = Quick::default();
    hasher.write(name);
    hasher.write(value);
    hasher.finish() as u32 | 1
}

fn literal(out: &mut Vec<u8>, first: u8, prefix: u32, place: u8, name: &[u8], value: &[u8]) {
    int(out, first, prefix, usize::from(place));
    if place == 0 {
        int(out, 0, 7, name.len());
        out.extend_from_slice(name);
    }
    int(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

/// An integer behind a prefix of so many bits, the bits before it being those of `first`.
fn int(out: &mut Vec<u8>, first: u8, prefix: u32, number: usize) {
    let mask = (1_usize << prefix) - 1;
    if number < mask {
        return out.push(first | number as u8);
    }
    out.push(first | mask as u8);
    let mut rest = number - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A power of two; more than the fields of a few kinds of heads.
const SEEN: usize = 64;
