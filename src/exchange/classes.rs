//! Which classes of weights the classes of a run go on from.

use crate::data::ClassNames;
use crate::{Error, Result};

/// Which class of a file each class of a run goes on from; those without one begin as `newcomers` says.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMap {
    pub from: Vec<Option<usize>>,
    pub newcomers: Newcomers,
}

/// How a class begins that the weights do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Newcomers {
    /// From the mean of the classes that they know
    Mean,
    /// As the classes of a new run do
    Fresh,
}

impl ClassMap {
    /// The classes called `here`, of a run, and those of weights that know so many (none where they know no labels), whose
    /// names may be known. `pairs` are the old and the new class of each that goes on, as [`ClassNames`] finds them. Without pairs, equal
    /// names belong together or, where names differ, equal numbers.
    pub fn new(
        pairs: &[(String, String)],
        (there, names): (Option<usize>, Option<&[String]>),
        here: &[String],
        newcomers: Newcomers,
    ) -> Result<ClassMap> {
        let same = (0..here.len()).map(Some).collect();
        let Some(count) = there else { return Ok(ClassMap { from: same, newcomers }) };
        let names: Vec<String> = match names.filter(|names| names.len() == count) {
            Some(names) => names.to_vec(),
            None => (0..count).map(|i| i.to_string()).collect(),
        };
        if pairs.is_empty() && count != here.len() {
            return Err(Error::Config(format!(
                "class-map: the weights know {count} classes, the data has {}; --class-map OLD:NEW,... says which go on",
                here.len()
            )));
        }
        if pairs.is_empty() {
            let by_name: Vec<Option<usize>> = here.iter().map(|new| names.iter().position(|old| old == new)).collect();
            let from = if by_name.iter().all(Option::is_some) { by_name } else { same };
            return Ok(ClassMap { from, newcomers });
        }
        let find = |what: &str, class: &str, names: &[String], known: &ClassNames| {
            known.called(class).map(|number| number as usize).ok_or_else(|| {
                let shown = names.join(", ");
                Error::Config(format!("class-map: no {what} class is called {class:?}; there are {shown}"))
            })
        };
        let (olds, news) = (ClassNames::new(&names), ClassNames::new(here));
        let mut from = vec![None; here.len()];
        for (old, new) in pairs {
            let place = &mut from[find("new", new, here, &news)?];
            if place.replace(find("old", old, &names, &olds)?).is_some() {
                return Err(Error::Config(format!("class-map: class {new} has two that it goes on from")));
            }
        }
        Ok(ClassMap { from, newcomers })
    }
}

/// A tensor of `shape` whose rows along an axis, behind the first few, are of `classes`: as many rows as `from` has, each that
/// of the old class. One without an old class gets its row of `fresh`, which has the new shape, or the mean of all.
pub(super) fn remap(
    values: &[f32],
    shape: &[usize],
    ((axis, behind), classes): ((usize, usize), usize),
    from: &[Option<usize>],
    fresh: Option<&[f32]>,
) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut all = Vec::new();
    for rows in values.chunks(inner * (behind + classes)) {
        let (kept, of_classes) = rows.split_at(inner * behind);
        all.extend_from_slice(kept);
        for from in from {
            match (from, fresh) {
                (Some(class), _) => all.extend_from_slice(&of_classes[inner * class..inner * (class + 1)]),
                (None, Some(fresh)) => {
                    // They lie where they go.
                    let at = all.len();
                    all.extend_from_slice(&fresh[at..at + inner]);
                }
                (None, None) => all.extend((0..inner).map(|i| {
                    let sum: f64 = of_classes.iter().skip(i).step_by(inner).map(|x| f64::from(*x)).sum();
                    (sum / classes as f64) as f32
                })),
            }
        }
    }
    all
}
