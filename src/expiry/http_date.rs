//! HTTP dates (RFC 9110 §5.6.7), and the other formats of an instant.

use std::time::{Duration, SystemTime};

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::parsing::Parsed;
use time::{Date, Month, OffsetDateTime, Time};

/// Formats the instant for output (RFC 3339), rounded down to the second.
pub fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// Seconds since 1970, rounded down.
pub fn seconds(at: SystemTime) -> i64 {
    OffsetDateTime::from(at).unix_timestamp()
}

/// The instant `seconds` after 1970 (before, if negative); `None` beyond four-digit years.
pub fn instant(seconds: i64) -> Option<SystemTime> {
    OffsetDateTime::from_unix_timestamp(seconds).ok().map(SystemTime::from)
}

type Format = &'static [BorrowedFormatItem<'static>];

/// `Sun, 06 Nov 1994 08:49:37 GMT`, 29 bytes.
const IMF_FIXDATE: Format = format_description!(
    "[weekday repr:short case_sensitive:false], [day] [month repr:short case_sensitive:false] \
     [year] [hour]:[minute]:[second] GMT"
);
/// `Sunday, 06-Nov-94 08:49:37 GMT`
const RFC_850: Format = format_description!(
    "[weekday case_sensitive:false], [day]-[month repr:short case_sensitive:false]-\
     [year repr:last_two] [hour]:[minute]:[second] GMT"
);
/// `Sun Nov  6 08:49:37 1994`, 24 bytes.
const ASCTIME: Format = format_description!(
    "[weekday repr:short case_sensitive:false] [month repr:short case_sensitive:false] \
     [day padding:space] [hour]:[minute]:[second] [year]"
);

/// Formats the instant as IMF-fixdate, the only form to generate (RFC 9110 §5.6.7), rounded down to
/// the second.
pub fn format_http_date(at: SystemTime) -> String {
    // Never fails: a complete date and time has all components.
    OffsetDateTime::from(at).format(IMF_FIXDATE).unwrap_or_default()
}

/// Parses an HTTP date in any of the three forms of RFC 9110 §5.6.7, ignoring case (RFC 9111 §4.2)
/// and surrounding space. A year of more than four digits is not an HTTP date.
pub fn http_date(raw: &str, now: SystemTime) -> Option<SystemTime> {
    let mut text = raw.trim_matches([' ', '\t']).to_ascii_uppercase();
    // The grammar allows a leap second, but `time` does not: 23:59:60 becomes 00:00:00.
    let leap = text.contains(":60 ");
    if leap {
        text = text.replace(":60 ", ":59 ");
    }
    let format = match text.len() {
        29 if text.as_bytes()[3] == b',' => IMF_FIXDATE,
        24 if text.as_bytes()[3] == b' ' => ASCTIME,
        _ => RFC_850,
    };
    let mut parsed = Parsed::new();
    if !parsed.parse_items(text.as_bytes(), format).ok()?.is_empty() {
        return None;
    }
    let (month, day) = (parsed.month()?, parsed.day()?.get());
    let time = Time::from_hms(parsed.hour_24()?, parsed.minute()?, parsed.second()?).ok()?;
    let year = match parsed.year() {
        Some(year) => year,
        None => full_year(parsed.year_last_two()?, (month, day, time), now)?,
    };
    let date = Date::from_calendar_date(year, month, day).ok()?;
    let at = SystemTime::from(OffsetDateTime::new_utc(date, time));
    at.checked_add(Duration::from_secs(u64::from(leap)))
}

/// The latest year with these last two digits that is not more than 50 years in the future
/// (RFC 9110 §5.6.7).
fn full_year(last_two: u8, within: (Month, u8, Time), now: SystemTime) -> Option<i32> {
    let now = OffsetDateTime::from(now);
    let here = (now.year() + 50, now.month() as u8, now.day(), now.time());
    let there = (within.0 as u8, within.1, within.2);
    let century = now.year().div_euclid(100);
    [century + 1, century, century - 1]
        .into_iter()
        .map(|c| c * 100 + i32::from(last_two))
        .find(|year| (*year, there.0, there.1, there.2) <= here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::tests::{NOW, at};

    #[test]
    fn dates() {
        const SUN_1994: i64 = 784_111_777;
        let table: &[(&str, Option<i64>)] = &[
            // The three forms.
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(SUN_1994)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(SUN_1994)),
            ("Sun Nov  6 08:49:37 1994", Some(SUN_1994)),
            ("Sun Nov 06 08:49:37 1994", Some(SUN_1994)),
            ("Sun Nov 16 08:49:37 1994", Some(SUN_1994 + 864_000)),
            // Case and surrounding space.
            ("sun, 06 nov 1994 08:49:37 gmt", Some(SUN_1994)),
            ("SUNDAY, 06-NOV-94 08:49:37 GMT", Some(SUN_1994)),
            ("sUN nOV  6 08:49:37 1994", Some(SUN_1994)),
            (" \tSun, 06 Nov 1994 08:49:37 GMT \t", Some(SUN_1994)),
            // A wrong day name is accepted; the numbers decide.
            ("Mon, 06 Nov 1994 08:49:37 GMT", Some(SUN_1994)),
            // Two-digit years: not more than 50 years ahead of 2026-11-23.
            ("Monday, 23-Nov-76 00:00:00 GMT", Some(3_373_315_200)),
            ("Wednesday, 25-Nov-76 00:00:00 GMT", Some(217_728_000)),
            ("Friday, 01-Jan-27 00:00:00 GMT", Some(1_798_761_600)),
            ("Saturday, 01-Jan-00 00:00:00 GMT", Some(946_684_800)),
            // Far years.
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("Tue, 19 Jan 2038 03:14:08 GMT", Some(2_147_483_648)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Sat, 01 Jan 10000 00:00:00 GMT", None),
            ("Sat, 01 Jan 99999 00:00:00 GMT", None),
            ("Mon, 01 Jan 0001 00:00:00 GMT", Some(-62_135_596_800)),
            // Leap days and seconds.
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Sat, 29 Feb 2025 12:00:00 GMT", None),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_800)),
            // Not HTTP dates.
            ("", None),
            (" ", None),
            ("0", None),
            ("-1", None),
            ("never", None),
            ("5d", None),
            ("2026-11-23T00:00:00Z", None),
            ("1795430000", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov -994 08:49:37 GMT", None),
            ("Sun, 06 Nov +994 08:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:61 GMT", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT, Mon, 07 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT0", None),
            ("Sün, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunday, 06-Nov-1994 08:49:37 GMT", None),
        ];
        for (raw, want) in table {
            assert_eq!(http_date(raw, at(NOW)), want.map(at), "{raw:?}");
        }
    }

    #[test]
    fn formatted_dates_are_parsed_back() {
        assert_eq!(format_http_date(at(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        for seconds in [-1, 0, NOW, 253_402_300_799] {
            assert_eq!(http_date(&format_http_date(at(seconds)), at(NOW)), Some(at(seconds)));
        }
    }

    #[test]
    fn two_digit_years_look_ahead_across_a_century() {
        let in_2099 = at(4_086_547_200);
        let year = |raw| http_date(raw, in_2099).map(|t| OffsetDateTime::from(t).year());
        assert_eq!(year("Monday, 01-Jan-02 00:00:00 GMT"), Some(2102));
        assert_eq!(year("Monday, 01-Jan-48 00:00:00 GMT"), Some(2148));
        assert_eq!(year("Monday, 01-Jan-50 00:00:00 GMT"), Some(2050));
    }
}
