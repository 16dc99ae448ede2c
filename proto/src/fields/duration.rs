//! Durations as the Gateway API writes them (GEP-2257): `^([0-9]{1,5}(h|m|s|ms)){1,4}$`. It must never guess a unit.

use std::time::Duration;

/// # Errors
/// What is wrong and what to write, to follow the text itself.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    const HELP: &str = "is no duration; write such as \"250ms\", \"30s\", \"1h30m\"";
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| HELP)?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[digits..digits + letters] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number * 60),
            "h" => Duration::from_secs(number * 3600),
            "" => return Err("has no unit; write such as \"250ms\", \"30s\", \"1h30m\""),
            _ => return Err(HELP),
        };
        parts += 1;
        if digits > 5 || parts > 4 {
            return Err("is too long; at most four parts of at most five digits");
        }
        total += unit;
        rest = &rest[digits + letters..];
    }
    if parts == 0 { Err(HELP) } else { Ok(total) }
}

/// As a user would write it, and as it parses: `1m30s`, `250ms`; with a fraction of a second in milliseconds alone, `1500ms`,
/// as long as there are five digits of them. In whole milliseconds.
pub fn print(duration: Duration) -> String {
    let millis = duration.as_millis();
    if !millis.is_multiple_of(1000) && millis < 100_000 {
        return format!("{millis}ms");
    }
    let parts = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let mut rest = millis;
    let mut text = String::new();
    for (size, unit) in parts {
        if rest >= size {
            text += &format!("{}{unit}", rest / size);
            rest %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
