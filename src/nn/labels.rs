//! Labels as further channels of an image: one plane per class, or an embedding at every pixel.

use super::{Backward, Builder, Forward, Init, Labels, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::device::{Buffer, Reals};
use crate::ops::resample;
use crate::ops::spectral_norm::Outputs;
use crate::sizes::product;

/// y is x with channels behind its own that tell the label.
pub struct ConcatLabels {
    labels: Buffer<u32>,
    appended: Appended,
    x: Value,
    pub y: Value,
}

enum Appended {
    /// A plane for each class: this number in the plane of the label, 0 in the others.
    Planes(f32),
    /// Where labels are vectors: this table's row, which has such a number of times the vector.
    Vectors(Reals),
    /// At every pixel the label's row of an embedding. Its gradient needs this workspace.
    Embedding(Parameter, Reals),
}

impl ConcatLabels {
    /// One plane per class, with `at` in the plane of the label, or `at` times the label's vector.
    pub fn new(build: &mut Builder, x: &Value, labels: &Labels, classes: usize, at: f32) -> Result<ConcatLabels> {
        let appended = labels.times(at)?.map_or(Appended::Planes(at), Appended::Vectors);
        ConcatLabels::of(build, x, &labels.numbers, classes, appended)
    }

    /// An embedding of `width` numbers for each of `classes`, called `embedding`.
    pub fn embedding(
        build: &mut Builder,
        x: &Value,
        labels: &Labels,
        (classes, width): (usize, usize),
        init: Init,
    ) -> Result<ConcatLabels> {
        let embedding = build.parameters.weight("embedding", &[classes, width], init, Outputs::Rows);
        let workspace = build.arena.take(product([x.n, width]))?;
        ConcatLabels::of(build, x, &labels.numbers, width, Appended::Embedding(embedding, workspace))
    }

    fn of(
        build: &mut Builder,
        x: &Value,
        labels: &Buffer<u32>,
        channels: usize,
        appended: Appended,
    ) -> Result<ConcatLabels> {
        let y = build.value(x.n, x.h, x.w, x.c + channels)?;
        Ok(ConcatLabels { labels: labels.clone(), appended, x: x.clone(), y })
    }

    /// Channels behind those of x.
    fn channels(&self) -> usize {
        self.y.c - self.x.c
    }
}

impl Layer for ConcatLabels {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let (x, y, labels) = (self.x.rows(&pass.rows), self.y.rows(&pass.rows), self.labels.view(pass.rows.clone()));
        match &self.appended {
            Appended::Planes(at) => resample::concat_labels(&y.x, &x.x, &labels, x.image(), self.channels(), *at),
            Appended::Vectors(table) => {
                resample::concat_embedding(&y.x, &x.x, table, &labels, x.image(), self.channels())
            }
            Appended::Embedding(embedding, _) => {
                let embedding = embedding.of(pass.weights.values);
                resample::concat_embedding(&y.x, &x.x, &embedding, &labels, x.image(), self.channels())
            }
        }
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let width = self.channels();
        if let (Appended::Embedding(embedding, workspace), Some(gradients)) = (&self.appended, pass.gradients) {
            let (y, labels) = (self.y.rows(&pass.rows), self.labels.view(pass.rows.clone()));
            let (dy, seeds) = (y.gradient(self.name(), "its output")?, pass.seeds_of_parameters());
            let (out, workspace, seeds) = (embedding.of(gradients), workspace.view(0..y.n * width), seeds.as_ref());
            let image = self.x.rows(&pass.rows).image();
            resample::concat_embedding_backward(&out, dy, &labels, seeds, image, width, &workspace)?;
        }
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let [x, y] = [&self.x, &self.y].map(|value| value.rows(&pass.input_rows));
        resample::concat_backward(&dx, y.gradient(self.name(), "its output")?, x.image(), width, false)
    }

    /// A label does not depend on the image: the tangent of the channels that tell it is 0.
    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let (x, y, labels) = (pass.of(&self.x), pass.of(&self.y), self.labels.view(pass.rows.clone()));
        resample::concat_labels(&y.x, &x.x, &labels, x.image(), self.channels(), 0.0)
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        match self.appended {
            Appended::Planes(_) | Appended::Vectors(_) => "labels",
            Appended::Embedding(..) => "embedding",
        }
    }
}
