//! What the commands for single objects share: the bucket without a mount, the outcome for each
//! object, and the exit status that follows from all of them.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::body::{Ledger, Unit};
use crate::bucket::Bucket;
use crate::bucket::honours::Honours;
use crate::clock::Clock;
use crate::config::args::OutputArgs;
use crate::config::{PART, Query};
use crate::daemon;
use crate::error::Error;
use crate::expiry::{Ttl, TtlRules, rfc3339};
use crate::metrics::Metrics;
use crate::name::Prefix;
use crate::output::{Reader, print, print_json, say};
use crate::pending::journal::Journal;
use crate::pending::{Room, Rules, Writer};
use crate::s3::{BRIEF_OUTAGE, S3};
use crate::store::Object;
use crate::store::write::{NewObjects, WriteStore};

/// Requests with content in flight: parts of one object.
const BODIES: usize = 4;

/// Exit statuses beside 0 (done), 1 (failed) and 2 (usage).
pub const PARTLY: u8 = 3;
const ABSENT: u8 = 4;

/// A bucket without a mount.
pub struct At {
    pub identity: String,
    pub metrics: Arc<Metrics>,
    store: S3,
    clock: Arc<Clock>,
    query: Query,
}

/// How a new object is written.
pub struct Making {
    pub ttl: Ttl,
    pub content_type_by_name: bool,
    pub storage_class: Option<String>,
    pub new_objects: NewObjects,
    /// Bytes of a part.
    pub part: u64,
    pub journal: Option<Journal>,
}

impl At {
    /// Sends nothing.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn new(query: &Query) -> Result<At, String> {
        let clock = Arc::new(if query.local_clock { Clock::local() } else { Clock::server() });
        let budget = daemon::budget_without_mount(BODIES, query.metadata_concurrency)?;
        let site = query.endpoint.clone().locate().await?;
        let metrics = Arc::new(Metrics::default());
        let store = S3::new(&site, &budget, query.timeout, clock.clone(), metrics.clone()).await?;
        let store = store.with_outage(BRIEF_OUTAGE);
        Ok(At { identity: site.identity(), metrics, store, clock, query: query.clone() })
    }

    pub fn bucket(&self) -> Bucket {
        let (store, clock) = (Arc::new(self.store.clone()), self.clock.clone());
        Bucket { store, clock, policy: self.query.policy }
    }

    pub fn write_store(&self) -> Arc<dyn WriteStore> {
        Arc::new(self.store.clone())
    }

    /// What writes to it. Conditions are sent, whether the store honours them or not: a command asks
    /// for an object before it changes it, and a proof as that of a mount would cost more than the
    /// change.
    pub fn writer(&self, making: Making) -> Arc<Writer> {
        let Making { ttl, content_type_by_name, storage_class, new_objects, part, journal } =
            making;
        let store = Arc::new(self.store.with_new_objects(new_objects));
        let rules = Rules {
            prefix: Prefix::default(),
            ttl: TtlRules::new(Vec::new(), ttl),
            content_type_by_name,
            storage_class,
            timeout: self.query.timeout,
        };
        // The parts in flight, and one that is being filled.
        let memory = (BODIES + 1) * (part >> 10) as usize;
        let room = Room { part, memory: Ledger::new(Unit::Kib, memory, true), spool: None };
        let bodies = Ledger::new(Unit::Body, BODIES, true);
        let honours = Honours { rename: false, ..Honours::ALL };
        Writer::new(self.bucket(), store, honours, rules, room, bodies, journal)
    }
}

/// The buckets of objects that exist and are changed.
#[derive(Default)]
pub struct Buckets(BTreeMap<String, Arc<Writer>>);

impl Buckets {
    /// What writes to the bucket of this object. `copied`: the settings of its copies.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn writer(
        &mut self,
        query: &Query,
        copied: &NewObjects,
    ) -> Result<Arc<Writer>, String> {
        let name = &query.endpoint.bucket;
        if let Some(writer) = self.0.get(name) {
            return Ok(writer.clone());
        }
        let writer = At::new(query).await?.writer(Making {
            ttl: Ttl::Never,
            content_type_by_name: false,
            storage_class: None,
            new_objects: copied.clone(),
            part: PART.as_u64(),
            journal: None,
        });
        self.0.insert(name.clone(), writer.clone());
        Ok(writer)
    }
}

/// What a command has done to an object. Field names are part of the interface.
#[derive(Debug, Serialize)]
pub struct Done<'a> {
    /// As it was named.
    pub path: &'a str,
    pub done: &'static str,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// RFC 3339; none: it does not expire.
    pub expires: Option<String>,
}

impl<'a> Done<'a> {
    pub fn of(path: &'a str, done: &'static str, object: &Object, bucket: &Bucket) -> Done<'a> {
        let version = &object.version;
        let etag = Some(version.etag.to_string()).filter(|etag| !etag.is_empty());
        let expires = bucket.judge(object).judgement.expiry.instant().map(rfc3339);
        Done { path, done, size: Some(version.size), etag, expires }
    }
}

impl OutputArgs {
    pub fn show(self, done: &Done<'_>) -> Result<Reader, String> {
        if self.quiet {
            return Ok(Reader::There);
        }
        if self.json {
            return print_json(&serde_json::to_string(done).map_err(|e| e.to_string())?);
        }
        let expires = match &done.expires {
            Some(at) => format!(", expires {at}"),
            None if done.done == "deleted" => String::new(),
            None => ", does not expire".to_owned(),
        };
        print(&format!("{} {}{expires}\n", done.done, done.path))
    }
}

/// The error of a change that required the version that was found.
pub fn replaced(error: Error) -> Error {
    match error {
        Error::PreconditionFailed => Error::Stale,
        other => other,
    }
}

/// The outcomes of a command for several objects.
#[derive(Default)]
pub struct Outcomes {
    done: usize,
    absent: usize,
    failed: usize,
}

impl Outcomes {
    /// Counts an outcome, and shows what was done, or says why it was not. An absent object is
    /// reported, too, since it was named.
    ///
    /// # Errors
    /// If it cannot be shown, in words for the operator.
    pub fn add(
        &mut self,
        output: OutputArgs,
        path: &str,
        outcome: Result<Done<'_>, Error>,
    ) -> Result<(), String> {
        match outcome {
            Ok(done) => {
                let _: Reader = output.show(&done)?;
                self.done += 1;
            }
            Err(error) => {
                say(&format!("expirefs: {path}: {error}"));
                match error {
                    Error::NotFound | Error::Expired => self.absent += 1,
                    _ => self.failed += 1,
                }
            }
        }
        Ok(())
    }

    /// 0: all done. 4: all absent. 1: none done, and some failed. 3: some done.
    pub fn status(&self) -> ExitCode {
        match (self.done, self.absent, self.failed) {
            (_, 0, 0) => ExitCode::SUCCESS,
            (0, _, 0) => ExitCode::from(ABSENT),
            (0, _, _) => ExitCode::FAILURE,
            (_, _, _) => ExitCode::from(PARTLY),
        }
    }
}
