//! Objects of a page that are due without a HEAD are deleted with one request, where the store limits
//! that to their versions. Elsewhere a batch would lengthen the time in which an object can be renewed.

use super::{Item, Judging, Sweep, Sweeping, Treated, Verdict};
use crate::expiry::Terms;
use crate::store::Version;

impl Sweeping {
    /// What was done with each of these; `None` for those that are still to be treated.
    pub(super) async fn delete_batch(
        &self,
        versions: &[Version],
        known: &[Option<Terms>],
    ) -> Vec<Option<Treated>> {
        let mut treated: Vec<Option<Treated>> = versions.iter().map(|_| None).collect();
        let Sweep { bucket, rules, .. } = &self.sweep;
        if !self.sweep.delete || self.stop.is_set() {
            return treated;
        }
        let now = bucket.clock.now();
        let mut due = Vec::new();
        for (at, (version, terms)) in versions.iter().zip(known).enumerate() {
            let judged = match self.judging(version, *terms, now) {
                Judging::Old => None,
                Judging::Judged(judged) => Some(judged),
                Judging::Young | Judging::Unknown => continue,
            };
            let verdict = judged.as_ref().map_or(Verdict::Due, |judged| {
                rules.verdict(&judged.judgement, version.last_modified, judged.at)
            });
            if verdict == Verdict::Due {
                due.push((at, judged));
            }
        }
        if due.len() < 2 {
            return treated;
        }
        let mut batch = Vec::new();
        for (at, judged) in due {
            let allowed = match &self.allowance {
                None => None,
                Some(allowance) => match allowance.try_take() {
                    Some(allowed) => Some(allowed),
                    None => break,
                },
            };
            batch.push((at, judged, allowed));
        }
        let asked: Vec<Version> = batch.iter().map(|(at, ..)| versions[*at].clone()).collect();
        self.turn().await;
        let removed = self.removal.remove_all(&asked).await;
        for ((at, judged, allowed), removed) in batch.into_iter().zip(removed) {
            let Some(removed) = removed else { continue };
            let version = &versions[at];
            if let Some(judged) = &judged {
                self.count().judged(judged, version);
            }
            let item = Item::due(version, judged.map(|judged| judged.judgement));
            treated[at] = Some(self.removed(item, version.size, removed, allowed));
        }
        treated
    }
}
