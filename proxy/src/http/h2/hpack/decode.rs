//! A header block's bytes into fields, given one by one to whoever makes a head of them. It must never read past the block,
//! nor let the peer's table grow beyond what was agreed.

use std::collections::VecDeque;

use crate::http::h2::hpack::ENTRY;
use crate::http::h2::hpack::Kind;
use crate::http::h2::hpack::STATIC;
use crate::http::h2::hpack::STATIC_TABLE;
use crate::http::h2::hpack::TABLE_MAX;
use crate::http::h2::hpack::huffman;
use crate::http::h2::hpack::known;

/// Takes the fields of a head as they come.
pub(in crate::http::h2) trait Fields {
    fn field(&mut self, kind: Kind, name: &[u8], value: &[u8]);
}

/// The block is no HPACK; with it the tables' agreement is lost, and so is the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http::h2) struct Broken;

pub(in crate::http::h2) struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// Texts out of the Huffman code.
    plain: Vec<u8>,
}

struct Entry {
    text: Box<[u8]>,
    name: usize,
    kind: Kind,
}

impl Entry {
    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at(self.name)
    }

    fn size(&self) -> usize {
        self.text.len() + ENTRY
    }
}

/// Where a text is: in the block, or decoded in `plain`.
enum Text<'b> {
    Block(&'b [u8]),
    Plain(usize, usize),
}

impl<'b> Text<'b> {
    fn bytes<'t>(&self, plain: &'t [u8]) -> &'t [u8]
    where
        'b: 't,
    {
        match *self {
            Self::Block(bytes) => bytes,
            Self::Plain(start, end) => &plain[start..end],
        }
    }
}

impl Decoder {
    pub(in crate::http::h2) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, max: TABLE_MAX, plain: Vec::new() }
    }

    pub(in crate::http::h2) fn decode(&mut self, block: &[u8], to: &mut impl Fields) -> Result<(), Broken> {
        let mut rest = block;
        let mut begun = false;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = int(&mut rest, 7)?;
                self.indexed(index, to)?;
            } else if first & 0xe0 == 0x20 {
                let max = int(&mut rest, 5)?;
                if begun || max > TABLE_MAX {
                    return Err(Broken);
                }
                self.max = max;
                self.make_room(0);
                continue;
            } else {
                let keep = first & 0x40 != 0;
                let index = int(&mut rest, if keep { 6 } else { 4 })?;
                self.literal(index, keep, &mut rest, to)?;
            }
            begun = true;
        }
        Ok(())
    }

    fn indexed(&self, index: usize, to: &mut impl Fields) -> Result<(), Broken> {
        if let Some(&(name, value, kind)) = STATIC_TABLE.get(index.wrapping_sub(1)) {
            to.field(kind, name.as_bytes(), value.as_bytes());
            return Ok(());
        }
        let entry = index.checked_sub(STATIC + 1).and_then(|at| self.table.get(at)).ok_or(Broken)?;
        let (name, value) = entry.parts();
        to.field(entry.kind, name, value);
        Ok(())
    }

    fn literal(&mut self, index: usize, keep: bool, rest: &mut &[u8], to: &mut impl Fields) -> Result<(), Broken> {
        self.plain.clear();
        let named = if index == 0 { Some(text(rest, &mut self.plain)?) } else { None };
        let value = text(rest, &mut self.plain)?;
        let value = value.bytes(&self.plain);
        let (kind, name) = match &named {
            Some(name) => {
                let name = name.bytes(&self.plain);
                (known::kind(name, value), name)
            }
            None => {
                let (kind, name) = self.name(index)?;
                (known::of_value(kind, value), name)
            }
        };
        to.field(kind, name, value);
        if keep {
            let text = [name, value].concat().into_boxed_slice();
            let entry = Entry { name: name.len(), kind, text };
            if self.make_room(entry.size()) {
                self.size += entry.size();
                self.table.push_front(entry);
            }
        }
        Ok(())
    }

    fn name(&self, index: usize) -> Result<(Kind, &[u8]), Broken> {
        if let Some(&(name, _, kind)) = STATIC_TABLE.get(index.wrapping_sub(1)) {
            return Ok((kind, name.as_bytes()));
        }
        let entry = index.checked_sub(STATIC + 1).and_then(|at| self.table.get(at)).ok_or(Broken)?;
        let name = entry.parts().0;
        // What it is does not follow from the entry where that one's value was at fault.
        let kind = match entry.kind {
            Kind::Malformed | Kind::Padded => known::kind(name, b""),
            kind => kind,
        };
        Ok((kind, name))
    }

    /// Lets go of the oldest entries. `false`: an entry of this size has no room at all.
    fn make_room(&mut self, size: usize) -> bool {
        while self.size + size > self.max {
            let Some(oldest) = self.table.pop_back() else { return false };
            self.size -= oldest.size();
        }
        true
    }
}

/// An integer behind a prefix of so many bits (RFC 7541 section 5.1), which `rest` begins with. No number that makes sense
/// here has more than 28 bits.
fn int(rest: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (&first, mut more) = rest.split_first().ok_or(Broken)?;
    let mask = (1_usize << prefix) - 1;
    let mut number = usize::from(first) & mask;
    if number == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = more.split_first().ok_or(Broken)?;
            more = after;
            if shift > 21 {
                return Err(Broken);
            }
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = more;
    Ok(number)
}

fn text<'b>(rest: &mut &'b [u8], plain: &mut Vec<u8>) -> Result<Text<'b>, Broken> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = int(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if !is_coded {
        return Ok(Text::Block(bytes));
    }
    let start = plain.len();
    match huffman::decode(bytes, plain) {
        true => Ok(Text::Plain(start, plain.len())),
        false => Err(Broken),
    }
}
