//! Whether a network has died: the training goes on, but nothing moves it any more.

use super::setup::Metrics;

/// A network is dead once every look at it over so many steps has found it still.
const LONG: u64 = 100;

/// What looks at the metrics have found.
#[derive(Default)]
pub struct Vitals {
    /// Since when each look has found D still, and G.
    d: Option<u64>,
    g: Option<u64>,
    /// At the last look: the step, and whether all logits were equal.
    step: u64,
    equal: bool,
}

impl Vitals {
    /// D is still where all its logits are equal, or the norm of its gradient is 0; G where the norm of its gradient is 0.
    pub fn look(&mut self, m: &Metrics) {
        let since = |still: bool, since: Option<u64>| still.then_some(since.unwrap_or(m.step));
        self.d = since(m.logit_spread == 0.0 || m.grad_norm_d == 0.0, self.d);
        self.g = since(m.grad_norm_g == 0.0, self.g);
        (self.step, self.equal) = (m.step, m.logit_spread == 0.0);
    }

    /// A line for each network that is dead.
    pub fn dead(&self) -> Vec<String> {
        let long = |since: &u64| self.step - since >= LONG;
        let of_d = if self.equal { "all its logits are equal" } else { "its gradient is 0" };
        let d = self.d.filter(long).map(|step| format!("D is dead: {of_d}, since step {step} at least"));
        let g = self.g.filter(long).map(|step| format!("G is dead: its gradient is 0, since step {step} at least"));
        d.into_iter().chain(g).collect()
    }
}
