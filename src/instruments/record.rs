//! Rows for other programs, as CSV and as JSON. A row is a list of columns from left to right, each with its name and its
//! value.

use serde_json::{Map, Value};

/// A value of a row.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A name without commas.
    Name(String),
    /// Any other text, which CSV puts in quotes, with two for one.
    Text(String),
    Count(u64),
    /// A number, and the digits that CSV gives behind its point. None is an empty field in CSV, and null in JSON.
    Number(Option<f64>, usize),
}

/// A number that is there.
pub fn number(value: f64, digits: usize) -> Cell {
    Cell::Number(Some(value), digits)
}

/// Rows of the same columns as CSV, under a line with the names of the columns. Nothing where there are no rows.
pub fn csv<N: AsRef<str>, Row: AsRef<[(N, Cell)]>>(rows: &[Row]) -> String {
    let field = |cell: &Cell| match cell {
        Cell::Name(name) => name.clone(),
        Cell::Text(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        Cell::Count(count) => count.to_string(),
        Cell::Number(value, digits) => value.map_or(String::new(), |value| format!("{value:.digits$}")),
    };
    let mut text = String::new();
    for (i, row) in rows.iter().map(AsRef::as_ref).enumerate() {
        if i == 0 {
            text += &row.iter().map(|(name, _)| name.as_ref()).collect::<Vec<_>>().join(",");
            text.push('\n');
        }
        text += &row.iter().map(|(_, cell)| field(cell)).collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

/// The row as members of a JSON object.
pub fn json(row: &[(&'static str, Cell)]) -> Map<String, Value> {
    let value = |cell: &Cell| match cell {
        Cell::Name(name) => name.as_str().into(),
        Cell::Text(text) => text.as_str().into(),
        Cell::Count(count) => (*count).into(),
        Cell::Number(value, _) => (*value).into(),
    };
    row.iter().map(|(name, cell)| (name.to_string(), value(cell))).collect()
}
