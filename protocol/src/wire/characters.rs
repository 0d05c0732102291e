//! Characters that the standard advises against in strings (MQTT 3.1.1 section 1.5.3): control
//! characters and Unicode's non-characters. `limits.control_characters` decides whether a client may
//! send them. U+0000 and surrogates are never taken and are judged elsewhere.

/// Whether a string has a control character (U+0001 to U+001F, U+007F to U+009F) or a non-character
/// (U+FDD0 to U+FDEF, and the last two of each plane).
pub(crate) fn has_control_characters(text: &str) -> bool {
    let (mut control, mut beyond_ascii) = (false, false);
    // No branch a byte: the compiler turns it into vector code.
    for &byte in text.as_bytes() {
        control |= byte < 0x20 || byte == 0x7f;
        beyond_ascii |= byte >= 0x80;
    }
    control || beyond_ascii && has_beyond_ascii(text)
}

/// The same for the characters of several bytes.
pub(crate) fn has_beyond_ascii(text: &str) -> bool {
    text.chars().any(|char| {
        matches!(char, '\u{80}'..='\u{9f}' | '\u{fdd0}'..='\u{fdef}')
            || u32::from(char) & 0xfffe == 0xfffe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_non_characters_are_found() {
        for char in ['\u{1}', '\n', '\u{1f}', '\u{7f}', '\u{80}', '\u{9f}', '\u{fdd0}', '\u{fdef}']
        {
            assert!(has_control_characters(&format!("a{char}b")), "{char:?}");
        }
        for plane in 0..=16u32 {
            for last in [0xfffe, 0xffff] {
                let text: String = char::from_u32(plane << 16 | last).into_iter().collect();
                assert!(has_control_characters(&text), "{text:?}");
            }
        }
        for char in [' ', '~', '\u{a0}', 'ü', '\u{fdcf}', '\u{fdf0}', '\u{feff}', '\u{fffd}', '😀']
        {
            assert!(!has_control_characters(&format!("a{char}b")), "{char:?}");
        }
    }
}
