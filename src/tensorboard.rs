//! Event files, which `tensorboard --logdir runs` reads: numbers, pictures and a text. A file is a row of records of TensorFlow's
//! format, each a message of protocol buffers with its length and checksums. A record that was cut off ends what is read, and
//! nothing else.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::data::ImageShape;
use crate::{Error, Result};

/// What the names of event files begin with.
pub const START: &str = "events.out.tfevents.";

/// An open event file. A thread of its own writes it, so that no step waits for a disk; where the system refuses one, the
/// thread that trains does.
pub struct Events {
    messages: Option<Sender<Vec<u8>>>,
    writer: Option<JoinHandle<std::io::Result<()>>>,
    file: File,
    path: PathBuf,
}

/// A message of protocol buffers, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn number(mut self, field: u64, value: u64) -> Message {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Message {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Message {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, message: Message) -> Message {
        self.bytes(field, &message.0)
    }
}

/// CRC-32C, rotated and moved, as records have it.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn record(message: &[u8]) -> Vec<u8> {
    let len = (message.len() as u64).to_le_bytes();
    [&len[..], &checksum(&len).to_le_bytes(), message, &checksum(message).to_le_bytes()].concat()
}

/// An event of now.
fn event(step: u64) -> Message {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Message::default().double(1, now.as_secs_f64()).number(2, step)
}

fn value(tag: &str) -> Message {
    Message::default().bytes(1, tag.as_bytes())
}

impl Events {
    /// Begins a file in this folder, for a run that goes on from `step`: what other files there have after it is to be forgotten.
    pub fn create(folder: &Path, step: u64) -> Result<Events> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let path =
            folder.join(format!("{START}{:010}.zgan.{}.{:06}", now / 1_000_000, std::process::id(), now % 1_000_000));
        let file = File::options().append(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        let mut theirs = file.try_clone().map_err(Error::io(&path))?;
        let (messages, received): (_, Receiver<Vec<u8>>) = channel();
        let write = move || received.into_iter().try_for_each(|message: Vec<u8>| theirs.write_all(&record(&message)));
        let writer = std::thread::Builder::new().spawn(write).ok();
        let events = Events { messages: writer.is_some().then_some(messages), writer, file, path };
        events.send(event(0).bytes(3, b"brain.Event:2"));
        // A log of a session that starts.
        events.send(event(step).message(7, Message::default().number(1, 1)));
        Ok(events)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn send(&self, message: Message) {
        match &self.messages {
            // Where the writer has failed, it says so at the end.
            Some(messages) => drop(messages.send(message.0)),
            None => drop((&self.file).write_all(&record(&message.0))),
        }
    }

    fn summary(&self, step: u64, values: impl IntoIterator<Item = Message>) {
        let summary = values.into_iter().fold(Message::default(), |summary, value| summary.message(1, value));
        self.send(event(step).message(5, summary));
    }

    /// Numbers under their tags, such as `loss/d`. What is no number is left out.
    pub fn scalars<'a>(&self, step: u64, scalars: impl IntoIterator<Item = (&'a str, f32)>) {
        let there = scalars.into_iter().filter(|(_, x)| !x.is_nan());
        self.summary(step, there.map(|(tag, x)| value(tag).float(2, x)));
    }

    /// A picture, as the bytes of a PNG file.
    pub fn image(&self, step: u64, tag: &str, shape: ImageShape, png: &[u8]) {
        let sides = [shape.height, shape.width, shape.channels];
        let image =
            (1..).zip(sides).fold(Message::default(), |m, (field, side)| m.number(field, side as u64)).bytes(4, png);
        self.summary(step, [value(tag).message(4, image)]);
    }

    /// A text in Markdown.
    pub fn text(&self, step: u64, tag: &str, text: &str) {
        const STRING: u64 = 7;
        let shape = Message::default().message(2, Message::default().number(1, 1));
        let tensor = Message::default().number(1, STRING).message(2, shape).bytes(8, text.as_bytes());
        let plugin = Message::default().bytes(1, b"text");
        let metadata = Message::default().message(1, plugin);
        self.summary(step, [value(tag).message(9, metadata).message(8, tensor)]);
    }

    /// Waits until everything is written.
    pub fn finish(mut self) -> Result<()> {
        self.end().map_err(Error::io(&self.path))
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.messages = None;
        let failed = || std::io::Error::other("its writer failed");
        self.writer.take().map_or(Ok(()), |writer| writer.join().unwrap_or_else(|_| Err(failed())))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `finish`.
        let _ = self.end();
    }
}
