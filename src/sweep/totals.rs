//! What a sweep has found and done, and what it has cost.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use super::removal::{Guard, Removed};
use super::verdict::Kept;
use crate::bucket::Judged;
use crate::expiry::Expiry;
use crate::metrics::Requests;
use crate::store::Version;

/// Counts objects by what was found and done. Field names are part of the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub listed: u64,
    /// Objects that are not due.
    pub live: u64,
    pub no_expiry: u64,
    pub in_grace: u64,
    pub unparsable: u64,
    /// Objects that are due, and their bytes.
    pub due: u64,
    pub due_bytes: u64,
    /// Of these.
    pub deleted: u64,
    pub deleted_bytes: u64,
    /// Deleted objects whose versions are kept, behind a delete marker.
    pub delete_markers: u64,
    pub renewed: u64,
    pub gone: u64,
    /// Objects that could not be judged, or not deleted.
    pub failed: u64,
    /// Incomplete uploads that are old, and those of them that were aborted.
    pub old_uploads: u64,
    pub aborted_uploads: u64,
    #[serde(skip)]
    pub lifetimes: Lifetimes,
}

/// The times to live of the objects that were judged, from Last-Modified on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    pub count: u64,
    pub least: Option<Duration>,
    pub most: Option<Duration>,
    /// The first object without an expiry.
    pub endless: Option<String>,
}

impl Totals {
    pub fn judged(&mut self, judged: &Judged, version: &Version) {
        let lifetimes = &mut self.lifetimes;
        match judged.judgement.expiry {
            Expiry::At(end) => {
                let ttl = end.duration_since(version.last_modified).unwrap_or_default();
                lifetimes.count += 1;
                lifetimes.least = Some(lifetimes.least.map_or(ttl, |least| least.min(ttl)));
                lifetimes.most = lifetimes.most.max(Some(ttl));
            }
            Expiry::Never if lifetimes.endless.is_none() => {
                lifetimes.endless = Some(version.key.to_string());
            }
            _ => {}
        }
    }

    pub fn kept(&mut self, why: Kept) {
        *match why {
            Kept::NoExpiry => &mut self.no_expiry,
            Kept::Live => &mut self.live,
            Kept::InGrace => &mut self.in_grace,
            Kept::Unparsable => &mut self.unparsable,
        } += 1;
    }

    pub fn due(&mut self, bytes: u64) {
        self.due += 1;
        self.due_bytes += bytes;
    }

    pub fn removed(&mut self, removed: &Removed, bytes: u64) {
        match removed {
            Removed::Deleted { marker } => {
                self.deleted += 1;
                self.deleted_bytes += bytes;
                self.delete_markers += u64::from(*marker);
            }
            Removed::Renewed => self.renewed += 1,
            Removed::Gone => self.gone += 1,
            Removed::Failed(_) => self.failed += 1,
        }
    }

    /// Whether anything was changed.
    pub fn has_done_any(&self) -> bool {
        self.deleted + self.aborted_uploads > 0
    }
}

/// One sweep, when it has ended. Field names are part of the interface.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub url: String,
    /// Whether it deletes.
    pub delete: bool,
    /// Whether all of the key space was swept.
    pub complete: bool,
    /// Why it was not, if so.
    pub ended_by: Option<String>,
    #[serde(flatten)]
    pub totals: Totals,
    pub guard: Option<Guard>,
    pub seconds: f64,
    pub requests: Requests<u64>,
    /// By the list prices of S3 Standard in us-east-1.
    pub usd: f64,
}

impl Summary {
    /// For people, in one line.
    pub fn line(&self) -> String {
        let Totals { listed, due, deleted, renewed, gone, failed, .. } = self.totals;
        let bytes = |bytes| bytesize::ByteSize(bytes).display().iec();
        let mut line = format!("{}: {listed} objects listed, ", self.url);
        line += &match self.delete {
            false => format!("{due} due, {}", bytes(self.totals.due_bytes)),
            true => format!("{deleted} deleted, {}", bytes(self.totals.deleted_bytes)),
        };
        for (count, what) in [
            (renewed, "renewed meanwhile"),
            (gone, "gone meanwhile"),
            (failed, "failed"),
            (self.totals.in_grace, "expired within the grace time"),
            (self.totals.unparsable, "unparsable"),
            (self.totals.aborted_uploads, "uploads aborted"),
        ] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        if !self.delete && self.totals.old_uploads > 0 {
            line += &format!(", {} old uploads", self.totals.old_uploads);
        }
        let requests = self.requests.sum();
        line += &format!("; {requests} requests, {:.4} USD, {:.1} s", self.usd, self.seconds);
        if let Some(why) = &self.ended_by {
            line += &format!("; not complete: {why}");
        }
        line
    }

    /// OpenMetrics text, for a file that node_exporter reads (its textfile collector).
    ///
    /// # Errors
    /// In words for the operator.
    pub fn open_metrics(&self, ended: SystemTime) -> Result<String, String> {
        type Labels = Vec<(&'static str, String)>;
        let mut registry = Registry::with_prefix("expirefs_sweep");
        let of = |labels: &[(&'static str, &str)]| -> Labels {
            let url = [("url", self.url.as_str())];
            url.iter().chain(labels).map(|(name, value)| (*name, (*value).to_owned())).collect()
        };
        let objects = Family::<Labels, Gauge>::default();
        let totals = serde_json::to_value(&self.totals).map_err(|e| e.to_string())?;
        let counts: BTreeMap<String, i64> =
            serde_json::from_value(totals).map_err(|e| e.to_string())?;
        for (outcome, count) in counts.iter().filter(|(name, _)| !name.ends_with("_bytes")) {
            objects.get_or_create(&of(&[("outcome", outcome)])).set(*count);
        }
        registry.register("objects", "Objects of the last sweep, by outcome", objects);
        let requests = Family::<Labels, Gauge>::default();
        let sent = serde_json::to_value(self.requests).map_err(|e| e.to_string())?;
        let sent: BTreeMap<String, i64> =
            serde_json::from_value(sent).map_err(|e| e.to_string())?;
        for (operation, count) in sent {
            requests.get_or_create(&of(&[("operation", &operation)])).set(count);
        }
        registry.register("requests", "Requests of the last sweep, by operation", requests);
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: f64| {
            let family = Family::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
            family.get_or_create(&of(&[])).set(value);
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, family),
                None => registry.register(name, help, family),
            }
        };
        let since = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let bytes = self.totals.deleted_bytes as f64;
        gauge("deleted", "Bytes deleted by the last sweep", Some(Unit::Bytes), bytes);
        gauge("duration", "Time of the last sweep", Some(Unit::Seconds), self.seconds);
        gauge("ended_timestamp", "When it ended", Some(Unit::Seconds), since.as_secs_f64());
        let complete = f64::from(u8::from(self.complete));
        gauge("complete", "1 if it swept all of the key space", None, complete);
        gauge("list_price_usd", "Its requests by the list prices of S3", None, self.usd);
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|e| e.to_string())?;
        Ok(text)
    }
}
