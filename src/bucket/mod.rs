//! A bucket whose objects are judged: its store, its clock, and the policy that decides which
//! header sets the expiry time.
//!
//! Owns the only way from an object to a verdict, shared by the mount, `ls` and `explain`. Knows
//! nothing of the kernel, open files or cached answers.

pub mod explain;
pub mod honours;
pub mod inventory;

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::expiry::{Judgement, Policy, Presence, Terms};
use crate::store::{Object, Store, Version};

/// See the module.
#[derive(Clone)]
pub struct Bucket {
    pub store: Arc<dyn Store>,
    pub clock: Arc<Clock>,
    pub policy: Policy,
}

/// The judgement of an object, and when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// By the bucket's clock.
    pub at: SystemTime,
    /// The parsed headers.
    pub terms: Terms,
    /// When it expires, and why.
    pub judgement: Judgement,
    /// What that means at `at`.
    pub presence: Presence,
}

impl Bucket {
    /// Judges an object by its headers.
    pub fn judge(&self, object: &Object) -> Judged {
        let at = self.clock.now();
        let terms = Terms::read(object.headers.stamps(), at);
        self.judge_by(terms, &object.version, at)
    }

    /// Judges a version by its parsed headers, at an instant of the bucket's clock.
    pub fn judge_by(&self, terms: Terms, version: &Version, at: SystemTime) -> Judged {
        let judgement = self.policy.judge(&terms, version.last_modified);
        Judged { at, terms, judgement, presence: judgement.expiry.at(at) }
    }
}
