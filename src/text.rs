//! Text that comes from files, as people may see it.

use std::borrow::Cow;

/// `text` with its control characters, which could make a terminal do things, as `\xNN`; those in `keep` stay.
pub fn plain<'a>(text: &'a str, keep: &[char]) -> Cow<'a, str> {
    let changes = |c: char| c.is_control() && !keep.contains(&c);
    if !text.contains(changes) {
        return text.into();
    }
    text.chars().map(|c| if changes(c) { format!("\\x{:02x}", c as u32) } else { c.to_string() }).collect()
}

/// As [`plain`], for what is shown line by line.
pub fn lines(text: &str) -> Cow<'_, str> {
    plain(text, &['\n', '\t'])
}
