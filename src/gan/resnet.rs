use super::networks::Latent;
use super::options::TrainerOptions;
use crate::device::Buffer;
use crate::nn::{Builder, Network, Value};
use crate::{Error, Result};
pub fn generator(_: &TrainerOptions, _: &mut Builder, _: &Latent, _: &Value) -> Result<Network> {
    Err(Error::Config("resnet".into()))
}
pub fn discriminator(_: &TrainerOptions, _: &mut Builder, _: &Value, _: &Buffer<u32>) -> Result<(Network, Value)> {
    Err(Error::Config("resnet".into()))
}
