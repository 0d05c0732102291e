//! Sizes and times as text, strictly: which units there are, and what to write instead of another.
//!
//! A size is bytes, or a number with B, KiB, MiB, GiB or TiB. `1M` and `1MB` are refused: they say
//! 10^6 to some and 2^20 to others. A time is one or more of number and unit (ms, s, m, h, d), as in
//! `2h 30m`. Months, years and words are refused, since `1M` beside `1m` is a trap.

use std::time::Duration;

/// Largest unit first; each with its milliseconds.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
/// The order in which units are proposed for a number without one.
const PROPOSED: [&str; 5] = ["s", "m", "d", "h", "ms"];

/// Why a text is no size and no time.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A number alone, where a unit belongs.
    NoUnit(u64),
    /// The part of the sentence after the key's name.
    Unit(String),
    /// Nothing like it.
    Other,
}

/// Bytes. More than 64 bits hold is `u64::MAX`, which no key takes.
pub fn size(text: &str) -> Result<u64, Wrong> {
    let (number, unit) = split(text).ok_or(Wrong::Other)?;
    let Some(power) = SIZES.iter().position(|known| *known == unit || unit.is_empty()) else {
        let right = match unit.to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => format!("{number}B"),
            "k" | "ki" | "kb" | "kib" | "kbyte" => format!("{number}KiB"),
            "m" | "mi" | "mb" | "mib" | "mbyte" => format!("{number}MiB"),
            "g" | "gi" | "gb" | "gib" | "gbyte" => format!("{number}GiB"),
            "t" | "ti" | "tb" | "tib" | "tbyte" => format!("{number}TiB"),
            _ => return Err(Wrong::Other),
        };
        return Err(Wrong::Unit(format!(
            "= \"{text}\" is not right: a size is in B, KiB, MiB, GiB or TiB, so write \"{right}\""
        )));
    };
    let unit = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return Ok(whole.saturating_mul(unit));
    }
    // "1.5GiB"; a fraction of a byte is none.
    match number.parse::<f64>() {
        Ok(part) if (part * unit as f64).fract() == 0.0 => Ok((part * unit as f64) as u64),
        _ => Err(Wrong::Other),
    }
}

/// A time of one or more parts. "0" needs no unit.
pub fn time(text: &str) -> Result<Duration, Wrong> {
    let mut total = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(Wrong::Other);
    }
    if let Ok(number) = rest.parse::<u64>() {
        return if number == 0 { Ok(Duration::ZERO) } else { Err(Wrong::NoUnit(number)) };
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| Wrong::Other)?;
        let after = rest[digits..].trim_start();
        let letters = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let unit = &after[..letters];
        match TIMES.iter().find(|(known, _)| *known == unit) {
            Some((_, ms)) => total = total.saturating_add(number.saturating_mul(*ms)),
            None => return Err(time_unit(text, number, unit)),
        }
        rest = after[letters..].trim_start();
    }
    Ok(Duration::from_millis(total))
}

fn time_unit(text: &str, number: u64, unit: &str) -> Wrong {
    let days = |each: u64, name: &str| {
        let days = number.saturating_mul(each);
        format!("for {name} write days, as in \"{days}d\"")
    };
    let right = match unit {
        "M" => format!("for minutes write \"{number}m\", {}", days(30, "months")),
        _ => match unit.to_ascii_lowercase().trim_end_matches('s') {
            "sec" | "second" => format!("write \"{number}s\""),
            // "S", whose end is cut.
            "" if !unit.is_empty() => format!("write \"{number}s\""),
            "min" | "minute" => format!("write \"{number}m\""),
            "h" | "hr" | "hour" => format!("write \"{number}h\""),
            "d" | "day" => format!("write \"{number}d\""),
            "m" | "msec" | "milli" | "millisecond" => format!("write \"{number}ms\""),
            "w" | "week" => days(7, "weeks"),
            "month" => days(30, "months"),
            "y" | "yr" | "year" => days(365, "years"),
            "u" | "usec" | "n" | "nsec" => "the smallest unit is a millisecond".to_owned(),
            _ => return Wrong::Other,
        },
    };
    Wrong::Unit(format!(
        "= \"{text}\" is not right: \"{unit}\" is no unit of a time (those are ms, s, m, h, d): {right}"
    ))
}

/// Number and unit of a size.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty() && !number.starts_with('.')).then(|| (number, unit.trim()))
}

/// "10s", "10m" and "10d": this number with those units that bring it between the bounds (in
/// milliseconds).
pub fn proposals(number: u64, min: u64, max: u64) -> Vec<String> {
    let fits = |unit: &&&str| {
        let each = TIMES.iter().find(|(known, _)| known == *unit).map_or(0, |(_, ms)| *ms);
        number.checked_mul(each).is_some_and(|ms| (min..=max).contains(&ms))
    };
    PROPOSED.iter().filter(fits).take(3).map(|unit| format!("{number}{unit}")).collect()
}

/// `1MiB`, `128 bytes`, for messages and `config.toml`.
pub fn size_text(bytes: u64) -> String {
    let mut power = 0;
    while power + 1 < SIZES.len() && bytes != 0 && bytes.is_multiple_of(1 << (10 * (power + 1))) {
        power += 1;
    }
    match power {
        0 => format!("{bytes} bytes"),
        _ => format!("{}{}", bytes >> (10 * power), SIZES[power]),
    }
}

/// `15s`, `1h 30m`, for messages and `config.toml`.
pub fn time_text(ms: u64) -> String {
    let mut parts = Vec::new();
    let mut rest = ms;
    for (unit, each) in TIMES {
        if rest >= each {
            parts.push(format!("{}{unit}", rest / each));
            rest %= each;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// `90 seconds`, `250 milliseconds`: a time in one unit, as `broker config print` shows it.
pub fn resolved_time(time: Duration) -> String {
    let plural = |n: u128, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match time.as_millis() {
        ms if ms % 1000 == 0 => plural(ms / 1000, "second"),
        ms => plural(ms, "millisecond"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("512B", 512),
            ("64KiB", 64 << 10),
            ("64 KiB", 64 << 10),
            ("1.5MiB", 3 << 19),
            ("4GiB", 4 << 30),
            ("1024TiB", 1 << 50),
            ("99999999TiB", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, right) in [
            ("1k", "1KiB"),
            ("1kb", "1KiB"),
            ("1M", "1MiB"),
            ("1MB", "1MiB"),
            ("1Mb", "1MiB"),
            ("2 gb", "2GiB"),
            ("1kib", "1KiB"),
            ("1.5 T", "1.5TiB"),
            ("7 bytes", "7B"),
        ] {
            let Err(Wrong::Unit(said)) = size(text) else { panic!("{text}: {:?}", size(text)) };
            assert!(said.contains(&format!("= \"{text}\"")), "{said}");
            assert!(said.ends_with(&format!("so write \"{right}\"")), "{said}");
        }
        for text in ["", "KiB", "-1", "64 kilos", "1.0.1KiB", ".5MiB", "0.0001KiB", "1Mbit"] {
            assert_eq!(size(text), Err(Wrong::Other), "{text}");
        }
    }

    #[test]
    fn times_are_numbers_with_a_unit() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("15s", 15_000),
            ("2m", 120_000),
            ("2h 30m", 9_000_000),
            ("1h30m", 5_400_000),
            ("7 d", 604_800_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(time("10"), Err(Wrong::NoUnit(10)));
        for (text, right) in [
            ("1M", "for minutes write \"1m\", for months write days, as in \"30d\""),
            ("2weeks", "as in \"14d\""),
            ("1y", "as in \"365d\""),
            ("1year", "as in \"365d\""),
            ("3 days", "write \"3d\""),
            ("3D", "write \"3d\""),
            ("10sec", "write \"10s\""),
            ("10S", "write \"10s\""),
            ("10 minutes", "write \"10m\""),
            ("10min", "write \"10m\""),
            ("2hours", "write \"2h\""),
            ("2H", "write \"2h\""),
            ("10MS", "write \"10ms\""),
            ("10us", "the smallest unit is a millisecond"),
            ("1h 2M", "for minutes write \"2m\""),
        ] {
            let Err(Wrong::Unit(said)) = time(text) else { panic!("{text}: {:?}", time(text)) };
            assert!(said.contains(&format!("= \"{text}\"")) && said.contains(right), "{said}");
        }
        for text in ["", "s", "-1s", "1.5h", "soon", "10 parsecs", "1s,2m"] {
            assert_eq!(time(text), Err(Wrong::Other), "{text}");
        }
    }

    #[test]
    fn a_number_alone_is_completed_by_what_its_key_takes() {
        assert_eq!(proposals(10, 0, 3_155_760_000_000), ["10s", "10m", "10d"]);
        assert_eq!(proposals(10, 1000, 600_000), ["10s", "10m"]);
        assert_eq!(proposals(200, 1, 1000), ["200ms"]);
        assert_eq!(proposals(u64::MAX, 0, 1000), Vec::<String>::new());
    }

    #[test]
    fn texts_of_sizes_and_times() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (128, "128 bytes"),
            (1024, "1KiB"),
            (1 << 20, "1MiB"),
            (3 << 29, "1536MiB"),
            (1 << 50, "1024TiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
        for (ms, text) in [
            (0, "0s"),
            (50, "50ms"),
            (1500, "1s 500ms"),
            (900_000, "15m"),
            (86_400_000, "1d"),
            (65_535_000, "18h 12m 15s"),
        ] {
            assert_eq!(time_text(ms), text);
            assert_eq!(time(text), Ok(Duration::from_millis(ms)));
        }
        assert_eq!(resolved_time(Duration::from_secs(90)), "90 seconds");
        assert_eq!(resolved_time(Duration::from_secs(1)), "1 second");
        assert_eq!(resolved_time(Duration::from_millis(250)), "250 milliseconds");
    }
}
