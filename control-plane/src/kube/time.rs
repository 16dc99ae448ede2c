//! Times as Kubernetes writes them (RFC 3339, UTC). It must never ask what time it is.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Whole seconds: metav1.Time.
pub fn seconds(at: SystemTime) -> String {
    format!("{}Z", civil(at).0)
}

/// metav1.MicroTime.
pub fn micros(at: SystemTime) -> String {
    let (text, micros) = civil(at);
    format!("{text}.{micros:06}Z")
}

fn civil(at: SystemTime) -> (String, u32) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, so that a leap day is a year's last; eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    (format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"), since.subsec_micros())
}
