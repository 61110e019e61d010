//! Ladders from separate kernels to fused ones: an operation in several forms, each of which does one more thing inside a
//! kernel.

use super::apart;
use crate::Result;
use crate::device::Device;
use crate::instruments::bench::operations::logits::{
    HEAD_FUSED, HeadForward, head_form, head_problem, log_partition_problem, loss_form,
};
use crate::instruments::bench::operations::memory::{NormFusion, norm_form, norm_problem};
use crate::instruments::bench::operations::products::{block_form, block_problem};
use crate::instruments::bench::{Form, Problem, Shapes};
use crate::nn::Fusion;
use crate::ops::attention::Shape;
use crate::ops::spectral_norm::Matrix;
use crate::ops::{log_partition, projection};

/// An operation in several forms: in the first one every step is a kernel of its own, the last one is what training runs.
pub struct Ladder {
    /// What `--only` calls it.
    pub key: &'static str,
    pub title: &'static str,
    /// What is computed.
    pub formula: &'static str,
    /// What can be learned from it.
    pub idea: &'static str,
    /// It has a form for each rung, of the same name.
    pub problem: Problem,
    pub rungs: &'static [Rung],
}

pub struct Rung {
    pub name: &'static str,
    /// What this rung does that the one before did not.
    pub what: &'static str,
}

/// All ladders. `tiny` makes sizes that only try the program.
pub fn ladders(tiny: bool) -> Vec<Ladder> {
    let [few, many] = if tiny { [5, 9] } else { [64, 65_536] };
    // The head and the second block of mnist's D, for 64 real images and 64 fakes.
    let head = projection_head(if tiny { [4, 6, 8, 3] } else { [128, 49, 32, 10] });
    let block = residual_block(if tiny { [3, 6, 5, 7] } else { [128, 14, 16, 32] });
    // The norm before the second block of mnist's G.
    let norm = conditional_norm(if tiny { [3, 4, 4, 5] } else { [64, 14, 14, 32] });
    let shapes = if tiny { Shapes::tiny() } else { Shapes::usual() };
    // In a row of the matrix there are more numbers than queries and keys are wide.
    let queries = if tiny { Shape { n: 2, l: 32, lk: 16, dk: 3, dv: 5 } } else { shapes.attention[0] };
    // The parameters of softmax-gan's G; of the D of sngan-projection-32 at its full width.
    let parameters = if tiny { 3000 } else { 1_510_032 };
    let mut all =
        vec![log_partition(few), log_partition(many), head, norm, block, attention(queries), adam(parameters)];
    all.extend(shapes.spectral.into_iter().map(|d| spectral(d.name, d.parameters, d.matrices)));
    all
}

fn log_partition(each: usize) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "As an eager framework runs a careful program: logsumexp about the maximum, its gradient once for both \
                   losses; every step reads from memory and writes to it.",
        },
        Rung {
            name: "two launches",
            what: "One pass takes the maximum, the sum of exponentials and the sums of deviations together, and leaves the \
                   exponentials where the gradients will be. A second launch joins the blocks' sums and turns the \
                   exponentials into all gradients. Any number of blocks can share the logits.",
        },
        Rung {
            name: "one launch",
            what: "One block does both, so nothing waits for a second launch. Training takes this form up to 8,192 logits; \
                   with more, one block would leave the other cores idle.",
        },
    ];
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let workspaces = [
            log_partition::unfused_workspace_len(device, 2 * each),
            log_partition::two_launches_workspace_len(device, 2 * each),
            0,
        ];
        let form = |rung: usize| {
            loss_form(device, each, RUNGS[rung].name, workspaces[rung], move |out, real, fake, workspace| match rung {
                0 => log_partition::unfused(out, real, fake, 1.0, workspace),
                1 => log_partition::two_launches(out, real, fake, 1.0, workspace),
                _ => log_partition::one_launch(out, real, fake, 1.0),
            })
        };
        (0..RUNGS.len()).map(form).collect()
    };
    Ladder {
        key: "log-partition",
        title: "Log-partition",
        formula: "L = ln \u{3a3} exp(-x) over all logits;  L_D = mean(a) + L,  L_G = mean(x) + L;  all gradients",
        idea: "Both losses of Softmax GAN and every gradient follow from one softmax over the batch. The arithmetic is \
               light; what costs is going back to memory, and launching, for each step of the formula.",
        problem: log_partition_problem(each, make),
        rungs: RUNGS,
    }
}

fn projection_head(sizes: [usize; 4]) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "ReLU, sum over the pixels, both inner products, their sum; backward, the gradient of the features, its \
                   spreading over the pixels, and a kernel for each parameter.",
        },
        Rung {
            name: "ReLU in the pooling",
            what: "The sum over the pixels applies the ReLU as it reads: the activated features are never written.",
        },
        Rung {
            name: "forward in one kernel",
            what: "A block pools its sample and takes w\u{b7}h + V[y]\u{b7}h as one product with w + V[y].",
        },
        Rung {
            name: "forward and backward fused",
            what: "Backward spreads w + V[y] to the pixels through the ReLU's mask without the gradient of the features in \
                   memory, and all parameters' gradients are one launch.",
        },
    ];
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let [n, p, c, _] = sizes;
        let unfused = projection::unfused::workspace_len(n * p * c, n);
        let passes: [((HeadForward, usize), bool); 4] = [
            ((projection::unfused::forward, unfused), false),
            ((projection::unfused::forward_pooled, 2 * n), false),
            (HEAD_FUSED, false),
            (HEAD_FUSED, true),
        ];
        let form = |(rung, (forward, fused)): (&Rung, _)| head_form(device, sizes, rung.name, forward, fused);
        RUNGS.iter().zip(passes).map(form).collect()
    };
    Ladder {
        key: "projection",
        title: "Projection head",
        formula: "h = \u{3a3} over pixels of relu(x);  f = w\u{b7}h + V[y]\u{b7}h;  forward and backward",
        idea: "The head reads the features once and has a number per sample to show for it: whatever else goes through \
               memory is waste.",
        problem: head_problem(sizes, make),
        rungs: RUNGS,
    }
}

/// The sizes are N, H, W and C.
fn conditional_norm(sizes: [usize; 4]) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "Statistics; then a kernel each for scale and shift, for the ReLU and for the upsampling; backward, one for \
                   each of them, and those of the norm itself.",
        },
        Rung {
            name: "ReLU fused",
            what: "The kernel that scales and shifts also applies the ReLU; backward, the kernels of the norm take its mask \
                   as they read, from the sign of what they compute anew. What lies between is never written.",
        },
        Rung {
            name: "ReLU and upsampling fused",
            what: "It writes each pixel four times, and backward the four gradients are added as they are read: the image of \
                   four times the size is written and read once.",
        },
    ];
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let fusions = [NormFusion::Nothing, NormFusion::Relu, NormFusion::ReluAndUpsampling];
        RUNGS.iter().zip(fusions).map(|(rung, fusion)| norm_form(device, sizes, rung.name, fusion)).collect()
    };
    Ladder {
        key: "norm",
        title: "Conditional batch norm",
        formula: "z = gamma[y] (x - mean) rstd + beta[y];  out = upsample(relu(z));  statistics, forward and backward",
        idea: "The statistics need all of x before anything can be normalised, so x is read twice at least. Everything after \
               that is a function of one number at a time.",
        problem: norm_problem(sizes, make),
        rungs: RUNGS,
    }
}

/// The sizes are N, H = W, C and K.
fn residual_block(sizes: [usize; 4]) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "The convolutions are products alone. ReLUs, biases, pooling, the sum of both branches, and the gradient \
                   of each, are kernels of their own.",
        },
        Rung {
            name: "reading fused",
            what: "A convolution applies the ReLU as it fetches its input, and its mask as it writes the input's gradient.",
        },
        Rung {
            name: "reading and writing fused",
            what: "Bias, 2x2 pooling and the sum of both branches happen while the product is still in registers; \
                   backward, the pooled gradient is spread as it is fetched.",
        },
    ];
    const UNFUSED: [&[Fusion]; 3] = [&[Fusion::Conv], &[Fusion::ConvWriting], &[]];
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let form = |(rung, unfused): (&Rung, &'static [Fusion])| block_form(device, rung.name, sizes, unfused);
        RUNGS.iter().zip(UNFUSED).map(form).collect()
    };
    Ladder {
        key: "block",
        title: "Residual block of D",
        formula: "h = conv1(relu(x));  y = pool(conv2(relu(h))) + shortcut(pool(x));  forward and backward",
        idea: "Nearly all the work is in the products, so fusion saves less time here than traffic: what surrounds a \
               convolution computes next to nothing, and each step of it that is a kernel reads and writes everything.",
        problem: block_problem(sizes, make),
        rungs: RUNGS,
    }
}

fn attention(shape: Shape) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "the matrix in memory",
            what: "A number for each pair of a query and a key is written to memory: products for the scores, a kernel for the \
                   softmax, products for the output; backward, the gradients of the shares and of the scores have as many \
                   numbers. The products take an image at a time, where a framework has one batched launch.",
        },
        Rung {
            name: "forward streaming",
            what: "A block owns 64 queries and goes through the keys. Where a tile of keys raises the maximum so far, the sums \
                   before it are scaled down, so the softmax needs no second look, and no score leaves the block. Backward \
                   still makes the matrix, anew.",
        },
        Rung {
            name: "both ways streaming",
            what: "Backward computes the shares again, tile by tile, from the one number for each query that forward kept: more \
                   arithmetic, and memory no longer grows with queries times keys.",
        },
    ];
    let Shape { n, l, lk, dk, dv } = shape;
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let streams = [[false, false], [true, false], [true, true]];
        RUNGS.iter().zip(streams).map(|(rung, streams)| apart::attention(device, rung.name, shape, streams)).collect()
    };
    let sizes = format!("{n} of {l} queries, {lk} keys, {dk} and {dv} wide");
    Ladder {
        key: "attention",
        title: "Self-attention",
        formula: "p = softmax over keys of q \u{b7} k;  o = \u{3a3} p v;  forward and backward",
        idea: "The matrix of all queries and keys is larger than everything that goes in and comes out, and its softmax seems to \
               need all of a row at once. It does not: a maximum and a sum can be mended as the keys come.",
        problem: Problem::new("attention", sizes, 1e-4, make),
        rungs: RUNGS,
    }
}

fn adam(parameters: usize) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "Both moments, the root, the quotient, the update, the moving average and the norm of the gradient, each \
                   from kernels that do one thing to every number. The host counts the updates, as such a program does.",
        },
        Rung {
            name: "the update in one pass",
            what: "A number's gradient, moments and value are read once and written once, and the squares of the gradient are \
                   summed on the way. Rates and the count of updates are in device memory, so that a graph can be launched \
                   again. A parameter that is not finite halts the training. The average is still apart.",
        },
        Rung {
            name: "with the average",
            what: "The same kernel, in its last branch: the new value is averaged while it is in a register.",
        },
    ];
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let passes = [apart::Pass::Nothing, apart::Pass::Update, apart::Pass::UpdateAndAverage];
        RUNGS.iter().zip(passes).map(|(rung, pass)| apart::adam(device, rung.name, parameters, pass)).collect()
    };
    Ladder {
        key: "adam",
        title: "Adam with a moving average",
        formula: "m += (1 - b1) (g - m);  v = b2 v + (1 - b2) g\u{b2};  p -= rate m / (sqrt(v) + eps);  average = d average + \
                  (1 - d) p;  |g|",
        idea: "Nothing but memory: a few operations for each number that is fetched. How often each is fetched is the time.",
        problem: Problem::new("adam", format!("with average, {parameters} parameters"), 1e-5, make),
        rungs: RUNGS,
    }
}

fn spectral(name: String, parameters: usize, matrices: Vec<Matrix>) -> Ladder {
    const RUNGS: &[Rung] = &[
        Rung {
            name: "every step a kernel",
            what: "For each matrix: two products with a vector, the length of what comes out and the division by it, the \
                   division of the matrix; backward, a product of sums, an outer product, a sum and a division.",
        },
        Rung {
            name: "backward fused",
            what: "The gradients of all matrices are corrected in two launches: the dot products by tiles, then the update, \
                   with no outer product in memory.",
        },
        Rung {
            name: "forward and backward fused",
            what: "Both products with a weight are one pass over it: each row gives its dot product and, from the cache, its \
                   share of the sum. All matrices share the launches; what joins the tiles is computed by each block itself.",
        },
    ];
    let sizes = format!("{name}, {parameters} parameters, {} matrices", matrices.len());
    let make = move |device: &Device| -> Result<Vec<Form>> {
        let fused = [[false, false], [false, true], [true, true]];
        let form =
            |(rung, fused): (&Rung, _)| apart::spectral(device, rung.name, (parameters, matrices.clone()), fused);
        RUNGS.iter().zip(fused).map(form).collect()
    };
    Ladder {
        key: "spectral",
        title: "Spectral norm",
        formula: "v = M'u / |M'u|;  u = Mv / |Mv|;  sigma = u \u{b7} Mv;  W = M / sigma;  dM = (G - <G, W> uv') / sigma",
        idea: "Many small matrices, little arithmetic: separate kernels launch and wait for hundreds of steps, and read every \
               weight three times where twice is enough.",
        problem: Problem::new("spectral_norm", sizes, 1e-4, make),
        rungs: RUNGS,
    }
}
