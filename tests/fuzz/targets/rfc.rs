//! A second, independent parser of HTTP dates and Cache-Control, written from RFC 9110 and RFC
//! 9111.

/// How a text may be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    Unreadable,
    Is(T),
    /// The RFC allows a parser to accept this value or reject the text.
    Maybe(T),
    /// Not valid, but hard to distinguish from valid text: any result is accepted.
    Any,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar; `None`: there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if !(1..=lengths[month as usize - 1]).contains(&day) {
        return None;
    }
    let before: i64 = lengths[..month as usize - 1].iter().sum();
    let years = |y: i64| 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    Some(years(year - 1) - years(1969) + before + day - 1)
}

/// Parses a text from its start.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn digits(&mut self, n: usize) -> Option<i64> {
        let digits = self.0.get(..n).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        self.0 = &self.0[n..];
        digits.parse().ok()
    }

    fn one_of(&mut self, words: &[&str]) -> Option<i64> {
        let i = words.iter().position(|word| self.0.starts_with(word))?;
        self.0 = &self.0[words[i].len()..];
        Some(i as i64)
    }

    fn is(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// `time-of-day`: 00:00:00 to 23:59:60, second 60 is accepted at other times, too.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        self.is(":")?;
        let minute = self.digits(2)?;
        self.is(":")?;
        let second = self.digits(2)?;
        (hour < 24 && minute < 60 && second <= 60).then_some((hour * 60 + minute) * 60 + second)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The number of the weekday, and the seconds since 1970.
type Stamp = (i64, i64);

fn stamp(weekday: i64, date: (i64, i64, i64), time: i64) -> Option<Stamp> {
    Some((weekday, 86_400 * days(date.0, date.1, date.2)? + time))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf(raw: &str) -> Option<Stamp> {
    let mut text = Text(raw);
    let weekday = text.one_of(&DAYS.map(|day| &day[..3]))?;
    text.is(", ")?;
    let day = text.digits(2)?;
    text.is(" ")?;
    let month = 1 + text.one_of(&MONTHS)?;
    text.is(" ")?;
    let year = text.digits(4)?;
    text.is(" ")?;
    let time = text.time()?;
    text.is(" gmt")?;
    text.end()?;
    stamp(weekday, (year, month, day), time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(raw: &str) -> Option<Stamp> {
    let mut text = Text(raw);
    let weekday = text.one_of(&DAYS.map(|day| &day[..3]))?;
    text.is(" ")?;
    let month = 1 + text.one_of(&MONTHS)?;
    text.is(" ")?;
    let day = match text.is(" ") {
        Some(()) => text.digits(1)?,
        None => text.digits(2)?,
    };
    text.is(" ")?;
    let time = text.time()?;
    text.is(" ")?;
    let year = text.digits(4)?;
    text.end()?;
    stamp(weekday, (year, month, day), time)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`: the latest year with these last two digits that is not more
/// than 50 years ahead, compared with date and time of day.
fn rfc850(raw: &str, now: i64) -> Option<Stamp> {
    let mut text = Text(raw);
    let weekday = text.one_of(&DAYS)?;
    text.is(", ")?;
    let day = text.digits(2)?;
    text.is("-")?;
    let month = 1 + text.one_of(&MONTHS)?;
    text.is("-")?;
    let two = text.digits(2)?;
    text.is(" ")?;
    let time = text.time()?;
    text.is(" gmt")?;
    text.end()?;
    let at = |date, time| Some(86_400 * days_or_next(date)? + time);
    let (year, rest) = civil(now);
    let fifty_ahead = at((year + 50, rest.0, rest.1), now.rem_euclid(86_400))?;
    let years = (0..40).map(|century| 100 * century + two).rev();
    let year = years
        .into_iter()
        .find(|year| at((*year, month, day), time).is_some_and(|at| at <= fifty_ahead))?;
    stamp(weekday, (year, month, day), time)
}

/// As `days`, but March 1 for a February 29 that does not exist.
fn days_or_next((year, month, day): (i64, i64, i64)) -> Option<i64> {
    if !(1..=31).contains(&day) {
        return None;
    }
    days(year, month, day).or_else(|| if (month, day) == (2, 29) { days(year, 3, 1) } else { None })
}

/// The year, and the month and day in it.
fn civil(seconds: i64) -> (i64, (i64, i64)) {
    let day = seconds.div_euclid(86_400);
    let mut year = 1970 + day / 366;
    while days(year + 1, 1, 1).is_some_and(|first| first <= day) {
        year += 1;
    }
    let month = (1..=12).rev().find(|m| days(year, *m, 1).is_some_and(|f| f <= day)).unwrap_or(1);
    (year, (month, day - days(year, month, 1).unwrap_or_default() + 1))
}

fn weekday_of(at: i64) -> i64 {
    (at.div_euclid(86_400) + 3).rem_euclid(7)
}

/// RFC 9110 §5.6.7, without regard to case (RFC 9111 §4.2). White space around a field value is not
/// part of it (§5.5).
pub fn date(raw: &str, now: i64) -> Reading<i64> {
    let text = raw.trim_matches([' ', '\t']).to_ascii_lowercase();
    let stamp = imf(&text).or_else(|| asctime(&text)).or_else(|| rfc850(&text, now));
    // The grammar allows a leap second at any time, its comment only at the end of a day.
    let (leap, at_midnight) = (text.contains(":60"), text.contains("23:59:60"));
    match stamp {
        None => Reading::Unreadable,
        Some((_, at)) if leap && !at_midnight => Reading::Maybe(at),
        // The day of the week is wrong.
        Some((weekday, at)) if weekday_of(at - i64::from(leap)) != weekday => Reading::Maybe(at),
        Some((_, at)) => Reading::Is(at),
    }
}

/// A list of `name[=value]`, RFC 9110 §5.6.1; `None`: it does not match the grammar.
fn list(raw: &str) -> Option<Vec<(String, Option<String>)>> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let (mut found, mut rest) = (Vec::new(), raw);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c| !token(c)).unwrap_or(rest.len());
        if end == 0 {
            return rest.is_empty().then_some(found);
        }
        let name = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        let value = match rest.strip_prefix('=') {
            None => None,
            Some(quoted) if quoted.starts_with('"') => {
                let (mut value, mut chars) = (String::new(), quoted[1..].char_indices());
                let end = loop {
                    match chars.next()? {
                        (i, '"') => break i + 2,
                        (_, '\\') => value.push(chars.next()?.1),
                        (_, c) => value.push(c),
                    }
                };
                rest = &quoted[end..];
                Some(value)
            }
            Some(plain) => {
                let end = plain.find(|c| !token(c)).unwrap_or(plain.len());
                if end == 0 {
                    return None;
                }
                rest = &plain[end..];
                Some(plain[..end].to_owned())
            }
        };
        found.push((name, value));
        rest = rest.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// Lifetime in seconds by RFC 9111 §5.2.2.10 (`s-maxage`) and §5.2.2.1 (`max-age`); `None`: neither
/// is present. A value over 2^31 may be reduced to that (§1.2.2).
pub fn lifetime(raw: &str) -> Option<Reading<u64>> {
    let Some(directives) = list(raw) else { return Some(Reading::Any) };
    let all = |name: &'static str| {
        directives.iter().filter(move |(n, _)| n == name).map(|(_, value)| value)
    };
    let name = ["s-maxage", "max-age"].into_iter().find(|name| all(name).next().is_some())?;
    let mut values = all(name);
    let first = values.next()?.as_deref().unwrap_or_default();
    if raw.contains("age=\"\\") {
        return Some(Reading::Any);
    }
    let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
    let first = digits.then(|| first.parse().unwrap_or(u64::MAX));
    // If it occurs twice, the first or none counts (§4.2.1).
    Some(match (first, values.next().is_some()) {
        (None, false) => Reading::Unreadable,
        (None, true) => Reading::Any,
        (Some(n), false) => Reading::Is(n),
        (Some(n), true) => Reading::Maybe(n),
    })
}

/// The day in `x-amz-expiration`: `expiry-date="Fri, 21 Dec 2012 00:00:00 GMT", rule-id="r"`.
pub fn lifecycle(raw: &str, now: i64) -> Reading<i64> {
    let named = |text: &str| text.matches("expiry-date").count();
    // S3 writes it once, in lower case; in other case, or inside a quoted text, it may be something
    // else.
    let plain = named(raw) <= 1 && named(raw) == named(&raw.to_ascii_lowercase());
    let Some(list) = list(raw).filter(|_| plain) else { return Reading::Any };
    if list.iter().any(|(name, _)| name.contains("expiry-date") && name != "expiry-date") {
        return Reading::Any;
    }
    let mut dates = list.iter().filter(|(name, _)| name == "expiry-date");
    match (dates.next(), dates.next()) {
        (Some((_, Some(value))), None) => date(value, now),
        (None, _) | (Some((_, None)), None) => Reading::Unreadable,
        (Some(_), Some(_)) => Reading::Any,
    }
}
