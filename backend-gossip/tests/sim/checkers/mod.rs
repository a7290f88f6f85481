//! The rules of a run, each with a name of its own.
//!
//! A [`Checker`] judges what is [`Seen`], in order, with the [`Ledger`] of all that is true so far
//! beside it. Rules about the agreement of all members at one moment are in [`agreement`].

pub(crate) mod agreement;
mod bounds;
mod events;
mod ledger;
mod members;
mod queries;
mod views;

use std::fmt::{self, Debug};
use std::time::Duration;

pub(crate) use self::bounds::Limits;
pub(crate) use self::ledger::{Ledger, Phase};

use crate::history::Seen;

/// One named rule.
pub(crate) trait Checker: Debug + Send {
    /// The rule's name, as failures print it.
    fn name(&self) -> &'static str;

    /// Looks at the next thing that happened.
    ///
    /// # Errors
    /// Says what was seen where it breaks the rule.
    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String>;
}

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) checker: &'static str,
    pub(crate) at: Duration,
    pub(crate) seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checker, at, seen } = self;
        write!(
            f,
            "checker: {checker}\nat:      {:.6} s\nseen:    {seen}",
            at.as_secs_f64()
        )
    }
}

/// The result of running a part of a simulation.
pub(crate) type Outcome<T = ()> = Result<T, Violation>;

/// All rules, and the ledger they share.
#[derive(Debug)]
pub(crate) struct Checkers {
    ledger: Ledger,
    checkers: Vec<Box<dyn Checker>>,
}

impl Checkers {
    /// Every rule there is.
    pub(crate) fn all(limits: &Limits) -> Self {
        let mut checkers = views::all(limits);
        checkers.extend(members::all());
        checkers.extend(bounds::all(limits));
        checkers.extend(events::all(limits));
        checkers.extend(queries::all(limits));
        Self {
            ledger: Ledger::default(),
            checkers,
        }
    }

    /// The rule of this name alone.
    #[cfg(test)]
    pub(crate) fn only(name: &str, limits: &Limits) -> Self {
        let mut all = Self::all(limits);
        all.checkers.retain(|checker| checker.name() == name);
        assert_eq!(all.checkers.len(), 1, "{name} names one checker");
        all
    }

    /// The names of all rules.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.checkers.iter().map(|checker| checker.name())
    }

    /// Enters what happened, and judges it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub(crate) fn see(&mut self, at: Duration, seen: &Seen<'_>) -> Outcome {
        self.ledger.enter(at, seen);
        for checker in &mut self.checkers {
            let result = checker.see(&self.ledger, at, seen);
            result.map_err(|seen| Violation {
                checker: checker.name(),
                at,
                seen,
            })?;
        }
        Ok(())
    }
}
