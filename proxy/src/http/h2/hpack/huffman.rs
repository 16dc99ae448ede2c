//! The Huffman code of RFC 7541 appendix B, read only: what it would save in bytes costs more than it gives between two
//! sidecars. It must never write more than its input allows: eight bits for every five.

/// The length of each symbol's code. The code is canonical: lengths are all there is to it.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// All bytes, and the end that may never be said.
const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;

struct Tables {
    /// Symbols by length of code, then by value: the order of their codes.
    order: [u16; SYMBOLS],
    /// For each length: below this, left-aligned, a code has that length or less.
    limit: [u64; LONGEST + 1],
    /// For each length: what turns a code into its symbol's place in `order`.
    offset: [i64; LONGEST + 1],
    /// Symbol and length for each beginning of eight bits; length nought: longer.
    short: [(u8, u8); 256],
}

static TABLES: Tables = {
    let mut tables =
        Tables { order: [0; SYMBOLS], limit: [0; LONGEST + 1], offset: [0; LONGEST + 1], short: [(0, 0); 256] };
    let (mut code, mut placed, mut length) = (0_u64, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        tables.offset[length] = placed as i64 - code as i64;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.order[placed] = symbol as u16;
                placed += 1;
                if length <= 8 {
                    let (mut at, end) = (code << (8 - length), (code + 1) << (8 - length));
                    while at < end {
                        tables.short[at as usize] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        tables.limit[length] = code << (32 - length);
        length += 1;
    }
    tables
};

/// Appends the text. `false`: the end symbol, or padding that is not the end symbol's beginning.
pub(super) fn decode(coded: &[u8], to: &mut Vec<u8>) -> bool {
    // The next bits are the highest of `bits`.
    let (mut bits, mut have, mut coded) = (0_u64, 0_u32, coded.iter());
    loop {
        while have <= 56 {
            let Some(&byte) = coded.next() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        let (symbol, length) = TABLES.short[(bits >> 56) as usize];
        if length > 0 && u32::from(length) <= have {
            to.push(symbol);
            bits <<= length;
            have -= u32::from(length);
            continue;
        }
        let Some((symbol, length)) = long(bits >> 32).filter(|(_, length)| *length <= have) else {
            // What is left is the end's beginning, and no whole byte of it.
            return have == 0 || (have < 8 && bits >> (64 - have) == (1 << have) - 1);
        };
        if symbol == END {
            return false;
        }
        to.push(symbol as u8);
        bits <<= length;
        have -= length;
    }
}

fn long(bits: u64) -> Option<(u16, u32)> {
    let length = (5..=LONGEST).find(|&length| bits < TABLES.limit[length])?;
    let place = (bits >> (32 - length)) as i64 + TABLES.offset[length];
    Some((*TABLES.order.get(usize::try_from(place).ok()?)?, length as u32))
}
