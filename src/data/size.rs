//! Height and width of images, as people write them: `64`, or `48x80`.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

impl Size {
    pub fn new(height: usize, width: usize) -> Size {
        Size { height, width }
    }

    pub fn shorter(self) -> usize {
        self.height.min(self.width)
    }

    pub fn pixels(self) -> usize {
        crate::sizes::product([self.height, self.width])
    }
}

/// Of square images.
impl From<usize> for Size {
    fn from(side: usize) -> Size {
        Size::new(side, side)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Size { height, width } = self;
        if height == width { write!(f, "{height}") } else { write!(f, "{height}x{width}") }
    }
}

impl std::str::FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Size, Error> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        match (height.parse(), width.parse()) {
            (Ok(height), Ok(width)) => Ok(Size { height, width }),
            _ => Err(Error::Config(format!("{text:?}, expected a side in pixels, or HEIGHTxWIDTH"))),
        }
    }
}

/// A number where height and width are equal, as files had it before there were others.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.height == self.width {
            true => serializer.serialize_u64(self.height as u64),
            false => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a side in pixels, or \"HEIGHTxWIDTH\"")
            }

            fn visit_i64<E: de::Error>(self, side: i64) -> Result<Size, E> {
                usize::try_from(side).map(Size::from).map_err(|_| E::invalid_value(de::Unexpected::Signed(side), &self))
            }

            fn visit_u64<E: de::Error>(self, side: u64) -> Result<Size, E> {
                usize::try_from(side)
                    .map(Size::from)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(side), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}
