//! Labels that are vectors: several classes an image, soft ones, or attributes.

use std::path::Path;

use crate::{Error, Result};

/// A vector for each of some images. That of an image without labels is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// Numbers of a vector.
    pub classes: usize,
    /// (images, classes)
    pub values: Vec<f32>,
}

impl Vectors {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.classes.max(1)
    }

    /// What G draws fakes for: the same, but an image without labels has the vector of one with labels, as far along those as it
    /// is along its own kind.
    pub fn of_fakes(&self) -> Vectors {
        let labelled: Vec<&[f32]> = self.values.chunks_exact(self.classes).filter(|row| is_labelled(row)).collect();
        let unlabelled = self.count() - labelled.len();
        let mut values = Vec::with_capacity(self.values.len());
        let mut met = 0;
        for row in self.values.chunks_exact(self.classes) {
            let row = if !is_labelled(row) && !labelled.is_empty() {
                met += 1;
                labelled[(met - 1) * labelled.len() / unlabelled]
            } else {
                row
            };
            values.extend_from_slice(row);
        }
        Vectors { classes: self.classes, values }
    }
}

/// The vectors of some files.
pub struct Table {
    /// The names of the classes.
    pub classes: Vec<String>,
    pub lines: Vec<Line>,
}

pub struct Line {
    /// Where it stands, for messages: `line 3`.
    pub at: String,
    pub file: String,
    /// Zeros for a file without labels.
    pub vector: Vec<f32>,
}

impl Line {
    pub fn is_labelled(&self) -> bool {
        is_labelled(&self.vector)
    }
}

fn is_labelled(vector: &[f32]) -> bool {
    vector.iter().any(|x| *x != 0.0)
}

/// Reads a CSV file. Its first line names the columns: that of the pictures' names, and one for each class. A picture whose fields are
/// all empty has no labels.
pub fn read(path: &Path) -> Result<Table> {
    let fail = |what: String| Error::Data { path: path.to_path_buf(), what };
    let text = String::from_utf8(std::fs::read(path).map_err(Error::io(path))?);
    let text = text.map_err(|_| fail("no text in UTF-8".into()))?;
    let mut lines = text.trim_start_matches('\u{feff}').lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let mut next = || lines.next().map(|(line, number)| (format!("line {number}"), fields(line)));
    let unended = |at: &str| fail(format!("{at}: a quotation mark that does not end"));
    let (at, names) = next().ok_or_else(|| fail("empty; expected a line that names its columns".into()))?;
    let names = names.ok_or_else(|| unended(&at))?;
    let classes = names[1..].to_vec();
    if classes.is_empty() || classes.iter().any(String::is_empty) {
        let what = format!(
            "{at}: expected the name of a column of pictures, and of one for each class, with commas between them"
        );
        return Err(fail(what));
    }
    if let Some(twice) = (1..classes.len()).find(|i| classes[..*i].contains(&classes[*i])) {
        return Err(fail(format!("{at}: two columns are called {}", classes[twice])));
    }
    let mut all = Vec::new();
    while let Some((at, fields)) = next() {
        let fields = fields.ok_or_else(|| unended(&at))?;
        let [file, numbers @ ..] = fields.as_slice() else { continue };
        if numbers.len() != classes.len() || file.is_empty() {
            let what =
                format!("{at}: {} fields, expected a picture's name and {} numbers", fields.len(), classes.len());
            return Err(fail(what));
        }
        let empty = numbers.iter().all(String::is_empty);
        let number = |(text, class): (&String, &String)| match text.parse::<f32>() {
            _ if empty => Ok(0.0),
            // Not -0.
            Ok(x) if x.is_finite() => Ok(x + 0.0),
            _ => Err(fail(format!("{at}, column {class}: {text:?}, expected a number"))),
        };
        let vector = numbers.iter().zip(&classes).map(number).collect::<Result<_>>()?;
        all.push(Line { at, file: file.clone(), vector });
    }
    Ok(Table { classes, lines: all })
}

/// The fields of a line, without the spaces around them. One in quotation marks may have commas, and two marks for one. None where the
/// last mark does not end.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut all, mut quoted) = (vec![String::new()], false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        let last = all.last_mut()?;
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => last.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(String::new()),
            c => last.push(c),
        }
    }
    (!quoted).then(|| all.iter().map(|field| field.trim().to_string()).collect())
}
