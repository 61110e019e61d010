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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_dead_when_it_was_still_for_long() {
        let lively = Metrics { logit_spread: 0.1, grad_norm_d: 1.0, grad_norm_g: 1.0, ..Metrics::default() };
        let mut vitals = Vitals::default();
        let mut look = |step, metrics: Metrics| {
            vitals.look(&Metrics { step, ..metrics });
            vitals.dead()
        };
        assert!(look(10, lively.clone()).is_empty());
        let equal = Metrics { logit_spread: 0.0, grad_norm_g: 0.0, ..lively.clone() };
        assert!(look(20, equal.clone()).is_empty());
        assert!(look(119, equal.clone()).is_empty());
        let lines = look(120, equal.clone());
        assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("since step 20 ")), "{lines:?}");
        assert!(look(130, lively.clone()).is_empty(), "it has moved");
        assert!(look(140, equal).is_empty());
        // A batch of one has no spread.
        let one = Metrics { logit_spread: f32::NAN, ..lively };
        assert!(look(150, one.clone()).is_empty() && look(400, one).is_empty());
    }
}
