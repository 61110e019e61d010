//! Calls of libtorch that tch does not have, from `native.cpp` beside this file.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use crate::{Error, Result};

/// A borrowed tensor of libtorch's.
type Handle = *const c_void;

unsafe extern "C" {
    fn zgan_torch_gradients(
        results: *mut *mut c_void,
        output: Handle,
        seed: Handle,
        inputs: *const Handle,
        n: usize,
        keep_graph: bool,
        why: *mut c_char,
        room: usize,
    ) -> bool;
    fn zgan_torch_convolution_gradient(
        result: *mut *mut c_void,
        dy: Handle,
        x: Handle,
        filters: Handle,
        of_filters: bool,
        why: *mut c_char,
        room: usize,
    ) -> bool;
    fn zgan_torch_leaky_relu(x: Handle, slope: f64, why: *mut c_char, room: usize) -> bool;
    fn zgan_torch_adam(
        parameters: *const Handle,
        gradients: *const Handle,
        first: *const Handle,
        second: *const Handle,
        steps: *const Handle,
        n: usize,
        rate: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        why: *mut c_char,
        room: usize,
    ) -> bool;
    fn zgan_torch_lerp(
        into: *const Handle,
        from: *const Handle,
        n: usize,
        weight: f64,
        why: *mut c_char,
        room: usize,
    ) -> bool;
    fn zgan_torch_tf32(products: *mut bool, convolutions: *mut bool);
}

fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast()
}

fn handles(tensors: &[Tensor]) -> Vec<Handle> {
    tensors.iter().map(handle).collect()
}

/// Runs a call. It gets a buffer to write into why it failed.
fn call(what: &str, call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<()> {
    let mut why = [0u8; 512];
    if call(why.as_mut_ptr().cast(), why.len()) {
        return Ok(());
    }
    let end = why.iter().position(|&byte| byte == 0).unwrap_or(why.len());
    Err(Error::Device(format!("libtorch, {what}: {}", String::from_utf8_lossy(&why[..end]))))
}

/// The gradients of `output` with respect to `inputs`. The seed is the gradient of `output` itself, 1 for a scalar.
pub fn gradients(output: &Tensor, seed: Option<&Tensor>, inputs: &[Tensor], keep_graph: bool) -> Result<Vec<Tensor>> {
    let mut results = vec![std::ptr::null_mut(); inputs.len()];
    let from = handles(inputs);
    let seed = seed.map_or(std::ptr::null(), handle);
    call("gradients", |why, room| {
        // SAFETY: `from` and `results` have the length given; every handle is of a tensor borrowed here.
        unsafe {
            zgan_torch_gradients(
                results.as_mut_ptr(),
                handle(output),
                seed,
                from.as_ptr(),
                from.len(),
                keep_graph,
                why,
                room,
            )
        }
    })?;
    // SAFETY: the call succeeded, so each is a new tensor that nobody else owns.
    Ok(results.into_iter().map(|result| unsafe { Tensor::from_ptr(result.cast()) }).collect())
}

/// The gradient of the filters or of the input of a 3x3 convolution with padding 1.
pub fn convolution_gradient(dy: &Tensor, x: &Tensor, filters: &Tensor, of_filters: bool) -> Result<Tensor> {
    let mut result = std::ptr::null_mut();
    call("convolution gradient", |why, room| {
        // SAFETY: the handles are of tensors borrowed here, the result is one pointer.
        unsafe {
            zgan_torch_convolution_gradient(&mut result, handle(dy), handle(x), handle(filters), of_filters, why, room)
        }
    })?;
    // SAFETY: the call succeeded, so it is a new tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result.cast()) })
}

/// A leaky ReLU in place.
pub fn leaky_relu(x: Tensor, slope: f64) -> Result<Tensor> {
    // SAFETY: the handle is of a tensor owned here.
    call("leaky ReLU", |why, room| unsafe { zgan_torch_leaky_relu(handle(&x), slope, why, room) })?;
    Ok(x)
}

/// The optimiser's tensors, one of each for every parameter.
pub struct Adam {
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
    steps: Vec<Tensor>,
    rate: f64,
    betas: [f64; 2],
}

impl Adam {
    pub fn new(parameters: &[Tensor], rate: f64, betas: [f64; 2]) -> Adam {
        let zeros = || parameters.iter().map(|p| p.detach().zeros_like()).collect();
        let steps = parameters.iter().map(|p| Tensor::zeros([0i64; 0], (tch::Kind::Float, p.device()))).collect();
        Adam { first: zeros(), second: zeros(), steps, rate, betas }
    }

    pub fn step(&self, parameters: &[Tensor], gradients: &[Tensor]) -> Result<()> {
        let [p, g, m, v, t] = [parameters, gradients, &self.first, &self.second, &self.steps].map(handles);
        let n = p.len();
        if [&g, &m, &v, &t].iter().any(|list| list.len() != n) {
            return Err(Error::Shape(format!("Adam: {n} parameters, {} gradients, {} moments", g.len(), m.len())));
        }
        let [beta1, beta2] = self.betas;
        call("Adam", |why, room| {
            // SAFETY: all five lists have the length n, as was checked; their tensors are borrowed here.
            unsafe {
                zgan_torch_adam(
                    p.as_ptr(),
                    g.as_ptr(),
                    m.as_ptr(),
                    v.as_ptr(),
                    t.as_ptr(),
                    n,
                    self.rate,
                    beta1,
                    beta2,
                    1e-8,
                    why,
                    room,
                )
            }
        })
    }
}

/// Moves each tensor of `into` towards that of `from`, by `weight` of the way.
pub fn lerp(into: &[Tensor], from: &[Tensor], weight: f64) -> Result<()> {
    let [to, source] = [into, from].map(handles);
    if to.len() != source.len() {
        return Err(Error::Shape(format!("lerp: {} tensors and {}", to.len(), source.len())));
    }
    // SAFETY: both lists have the length given, as was checked; their tensors are borrowed here.
    call("lerp", |why, room| unsafe { zgan_torch_lerp(to.as_ptr(), source.as_ptr(), to.len(), weight, why, room) })
}

/// Whether TF32 is allowed in matrix products, and in convolutions, on a GPU.
pub fn tf32() -> (bool, bool) {
    let (mut products, mut convolutions) = (false, false);
    // SAFETY: both are places for one value each.
    unsafe { zgan_torch_tf32(&mut products, &mut convolutions) };
    (products, convolutions)
}
