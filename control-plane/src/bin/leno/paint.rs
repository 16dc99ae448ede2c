//! What answers look like in a terminal: colours where they are wanted, columns that line up. It must never colour a file.

use std::io::IsTerminal;
use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Doubt,
    Bad,
    Strong,
    Faint,
}

/// In colour where a person looks and has not asked for none (no-color.org).
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    static COLOURS: OnceLock<bool> = OnceLock::new();
    let refused = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    if !*COLOURS.get_or_init(|| !refused && std::io::stdout().is_terminal()) {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Doubt => 33,
        Tone::Bad => 31,
        Tone::Strong => 1,
        Tone::Faint => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Columns as wide as their widest cell, the last as long as it is. The first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(&if number == 0 { paint(Tone::Strong, line.trim_end()) } else { line.trim_end().to_owned() });
        out.push('\n');
    }
    out
}

/// `one pod`, `3 pods`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("one {one}"),
        _ => format!("{number} {many}"),
    }
}
