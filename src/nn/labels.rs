//! Labels as further channels of an image: one plane per class, or an embedding at every pixel.

use super::{Backward, Builder, Forward, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::device::Buffer;
use crate::ops::resample;
use crate::ops::spectral_norm::Outputs;

/// A label does not depend on the image: the tangent of the channels that stand for it is 0.
fn appended_zeros(pass: &Tangent, x: &Value, y: &Value, labels: &Buffer<u32>) -> Result<()> {
    let (x, y, labels) = (pass.of(x), pass.of(y), labels.view(pass.rows.clone()));
    resample::concat_labels(&y.x, &x.x, &labels, x.image(), y.c - x.c, 0.0)
}

/// y is x and one plane per class: `at` in the plane of the label, 0 in the others.
pub struct ConcatLabels {
    labels: Buffer<u32>,
    classes: usize,
    at: f32,
    x: Value,
    pub y: Value,
}

impl ConcatLabels {
    pub fn new(build: &mut Builder, x: &Value, labels: &Buffer<u32>, classes: usize, at: f32) -> Result<ConcatLabels> {
        let y = build.value(x.n, x.h, x.w, x.c + classes)?;
        Ok(ConcatLabels { labels: labels.clone(), classes, at, x: x.clone(), y })
    }
}

impl Layer for ConcatLabels {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let (x, y, labels) = (self.x.rows(&pass.rows), self.y.rows(&pass.rows), self.labels.view(pass.rows.clone()));
        resample::concat_labels(&y.x, &x.x, &labels, x.image(), self.classes, self.at)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let [x, y] = [&self.x, &self.y].map(|value| value.rows(&pass.input_rows));
        resample::concat_backward(&dx, y.gradient(self.name(), "its output")?, x.image(), self.classes, false)
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        appended_zeros(pass, &self.x, &self.y, &self.labels)
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        "labels"
    }
}

/// y is x and, at every pixel, the row of an embedding that belongs to the label.
pub struct ConcatEmbedding {
    embedding: Parameter,
    labels: Buffer<u32>,
    width: usize,
    workspace: Buffer<f32>,
    x: Value,
    pub y: Value,
}

impl ConcatEmbedding {
    /// An embedding of `width` numbers for each of `classes`, called `embedding`.
    pub fn new(
        build: &mut Builder,
        x: &Value,
        labels: &Buffer<u32>,
        (classes, width): (usize, usize),
        init: Init,
    ) -> Result<ConcatEmbedding> {
        Ok(ConcatEmbedding {
            embedding: build.parameters.weight("embedding", &[classes, width], init, Outputs::Rows),
            labels: labels.clone(),
            width,
            workspace: build.arena.take(x.n * width)?,
            x: x.clone(),
            y: build.value(x.n, x.h, x.w, x.c + width)?,
        })
    }
}

impl Layer for ConcatEmbedding {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let (x, y, labels) = (self.x.rows(&pass.rows), self.y.rows(&pass.rows), self.labels.view(pass.rows.clone()));
        let embedding = self.embedding.of(pass.weights);
        resample::concat_embedding(&y.x, &x.x, &embedding, &labels, x.image(), self.width)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        if let Some(gradients) = pass.gradients {
            let (x, y, labels) =
                (self.x.rows(&pass.rows), self.y.rows(&pass.rows), self.labels.view(pass.rows.clone()));
            let (dy, seeds) = (y.gradient(self.name(), "its output")?, pass.seeds_of_parameters());
            let (out, workspace) = (self.embedding.of(gradients), self.workspace.view(0..x.n * self.width));
            let seeds = seeds.as_ref();
            resample::concat_embedding_backward(&out, dy, &labels, seeds, x.image(), self.width, &workspace)?;
        }
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let [x, y] = [&self.x, &self.y].map(|value| value.rows(&pass.input_rows));
        resample::concat_backward(&dx, y.gradient(self.name(), "its output")?, x.image(), self.width, false)
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        appended_zeros(pass, &self.x, &self.y, &self.labels)
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        "embedding"
    }
}
