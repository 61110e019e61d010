//! Whose weights a file has. Each program is known by names of its tensors. Those of programs with the networks that are
//! here are turned into the names that [`super::names`] knows: zgan's own, crcrpar's or PyTorch-GAN's.

use std::collections::{BTreeSet, HashSet};

use crate::checkpoint::NamedTensor;

/// What zgan's own names begin with.
const OWN: [&str; 2] = ["generator.", "discriminator."];

/// What names of crcrpar's and PyTorch-GAN's networks begin with.
const KNOWN: [&str; 4] = ["l1.", "block1.", "block2.", "model."];

/// mimicry's networks are others: parts of names that it alone has, and what names of its last convolutions begin with.
const MIMICRY: [&str; 5] = [".embed.weight", ".bn.running_", ".sn_u", ".sn_sigma", "attn."];
const MIMICRY_LAST: [&str; 2] = ["c5.", "c6."];

/// Names of the spectral norm that came after `torch.nn.utils.spectral_norm`, and of that one.
const PARAMETRISATIONS: [(&str, &str); 3] = [
    (".parametrizations.weight.original", ".weight_orig"),
    (".parametrizations.weight.0._u", ".weight_u"),
    (".parametrizations.weight.0._v", ".weight_v"),
];

/// How names end in pfnet's Chainer networks, and in crcrpar's.
const CHAINER: [(&str, &str); 9] = [
    ("gammas/W", "weights.weight"),
    ("betas/W", "biases.weight"),
    ("gamma", "weight"),
    ("beta", "bias"),
    ("avg_mean", "running_mean"),
    ("avg_var", "running_var"),
    ("W", "weight"),
    ("b", "bias"),
    ("u", "weight_u"),
];

/// The tensors under names that are known here, and whether these are zgan's own. An error says whose networks they are, or
/// that nobody knows.
pub fn recognise(tensors: Vec<NamedTensor>) -> Result<(bool, Vec<NamedTensor>), String> {
    let tensors = if tensors.iter().any(|t| t.name.contains('/')) { chainer(tensors) } else { hooks(tensors) };
    let find = |is: &dyn Fn(&str) -> bool| tensors.iter().map(|t| t.name.as_str()).find(|name| is(name));
    let begins = |name: &str, with: &[&str]| with.iter().any(|start| name.starts_with(start));
    let mimicry = MIMICRY.iter().find_map(|part| find(&|name| name.contains(part)));
    if let Some(name) = mimicry.or_else(|| find(&|name| begins(name, &MIMICRY_LAST))) {
        return Err(format!(
            "mimicry's networks, as {name} shows, which are others than the ones here: they upsample bilinearly, their norms \
             have an eps of 1e-5, and the shortcuts of D see relu(x)"
        ));
    }
    let own = find(&|name| begins(name, &OWN)).is_some();
    if !own && find(&|name| begins(name, &KNOWN)).is_none() {
        let first = tensors.first().map(|t| format!("the first of {} is {}", tensors.len(), t.name));
        return Err(format!(
            "no tensors of zgan, of crcrpar's networks (l1.weight, block1.c1.weight), of pfnet's (l1/W) or of PyTorch-GAN's \
             (model.0.weight); {}",
            first.unwrap_or("it is empty".into())
        ));
    }
    Ok((own, tensors))
}

/// The names that `torch.nn.utils.spectral_norm` gives, of tensors that have those of its successor, of torch 0.4, or of a
/// network in `nn.DataParallel`.
fn hooks(tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    let parallel = !tensors.is_empty() && tensors.iter().all(|t| t.name.starts_with("module."));
    let renamed = tensors.into_iter().map(|t| {
        let name = if parallel { t.name.trim_start_matches("module.").to_string() } else { t.name };
        let name = PARAMETRISATIONS.iter().fold(name, |name, (from, to)| name.replace(from, to));
        NamedTensor { name, ..t }
    });
    let all: Vec<NamedTensor> = renamed.collect();
    // Beside `weight_orig`, torch 0.4 saved what it had made of it.
    let originals: HashSet<String> =
        all.iter().filter_map(|t| t.name.strip_suffix("_orig").map(String::from)).collect();
    all.into_iter().filter(|t| !originals.contains(&t.name)).collect()
}

/// crcrpar's names of tensors that have pfnet's. Layouts are the same, but for u, which has a row there.
fn chainer(tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    let names: BTreeSet<String> = tensors.iter().map(|t| t.name.clone()).collect();
    // Of G, whose last convolution has the number of its last norm, and is called c or l.
    let last = names.iter().find_map(|name| name.strip_prefix('b')?.strip_suffix("/gamma")?.parse::<usize>().ok());
    let renamed = tensors.into_iter().map(|mut t| {
        let (layer, part) = CHAINER
            .iter()
            .find_map(|(theirs, ours)| Some((t.name.strip_suffix(theirs)?.strip_suffix('/')?, *ours)))
            .unwrap_or((&t.name, ""));
        let normalised = part == "weight" && names.contains(&format!("{layer}/u"));
        let layer = match last {
            Some(n) if [format!("c{n}"), format!("l{n}")].iter().any(|name| name == layer) => format!("conv{n}"),
            _ => layer.replace('/', "."),
        };
        if part == "weight_u" {
            t.shape = vec![t.values.len()];
        }
        let dot = if part.is_empty() { "" } else { "." };
        t.name = format!("{layer}{dot}{part}{}", if normalised { "_orig" } else { "" });
        t
    });
    renamed.collect()
}
