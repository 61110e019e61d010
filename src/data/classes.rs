//! Which class a person means.

use std::collections::HashMap;

use crate::settings::nearest;
use crate::{Error, Result};

/// The classes by their names, for options that name some of them.
pub struct ClassNames<'a> {
    names: &'a [String],
    /// How many have the name, and the last of them.
    by_name: HashMap<&'a str, (usize, u32)>,
    /// Whether a class has a number for its name: then a number is a name, too.
    numbers: bool,
    /// The most commas in a name.
    commas: usize,
}

impl<'a> ClassNames<'a> {
    pub fn new(names: &'a [String]) -> ClassNames<'a> {
        let mut by_name = HashMap::new();
        for (name, number) in names.iter().zip(0..) {
            let entry = by_name.entry(name.as_str()).or_insert((0, number));
            *entry = (entry.0 + 1, number);
        }
        let is_number = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let commas = names.iter().map(|name| name.matches(',').count()).max().unwrap_or(0);
        ClassNames { names, by_name, numbers: names.iter().any(is_number), commas }
    }

    /// The one class of this name; or of this number, where no name is a number.
    pub fn called(&self, class: &str) -> Option<u32> {
        match self.by_name.get(class) {
            Some((1, number)) => Some(*number),
            None if !self.numbers => class.parse().ok().filter(|number| (*number as usize) < self.names.len()),
            _ => None,
        }
    }

    /// As [`ClassNames::called`]; the error says what there is.
    pub fn find(&self, class: &str) -> Result<u32> {
        if let Some(found) = self.called(class) {
            return Ok(found);
        }
        if let Some((count, _)) = self.by_name.get(class) {
            let what = format!("{count} classes are called {class}, so it is not clear which one is meant");
            return Err(Error::Config(what));
        }
        const MOST: usize = 100;
        let there = match nearest(class, self.names) {
            Some(name) => format!("did you mean {name}? "),
            None => String::new(),
        };
        let shown = self.names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = self.names.len().saturating_sub(MOST);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::Config(format!("no class is called {class}; {there}there are {shown}{more}")))
    }

    /// The classes of `A,B,C`. The name of a class may have commas as well: what remains is one class where it can be, and else
    /// begins with the shortest name after which there are classes to the end.
    pub fn find_all(&self, text: &str) -> Result<Vec<u32>> {
        let parts: Vec<&str> = text.split(',').collect();
        let starts: Vec<usize> = parts.iter().map(|part| part.as_ptr() as usize - text.as_ptr() as usize).collect();
        // Of the parts first .. last.
        let class =
            |first: usize, last: usize| self.called(&text[starts[first]..starts[last - 1] + parts[last - 1].len()]);
        // For each part, from the last one on: the class that begins with it, and the part after that class.
        let mut way: Vec<Option<(u32, usize)>> = vec![None; parts.len()];
        for first in (0..parts.len()).rev() {
            let longest = parts.len().min(first + self.commas + 1);
            let ends = (longest == parts.len()).then_some(longest).into_iter().chain(first + 1..longest + 1);
            way[first] = ends
                .filter(|last| *last == parts.len() || way[*last].is_some())
                .find_map(|last| Some((class(first, last)?, last)));
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((class, next)) = way.get(at).copied().flatten() {
            found.push(class);
            at = next;
        }
        if at == parts.len() {
            return Ok(found);
        }
        // The error is about the first part that is no class.
        let wrong = parts.iter().find(|part| self.called(part).is_none()).unwrap_or(&text);
        self.find(wrong).map(|class| vec![class])
    }
}
