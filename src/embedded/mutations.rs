//! The log of changes in the buckets, in order: each prefix of it leads to the state that a client
//! leaves if it crashes at that moment.
//!
//! Owns nothing: the log is stored with the contents, under their lock. It is kept only for tests
//! that request it, and grows until the server stops.

use std::collections::BTreeMap;

use super::{Handle, Object, State, Stored};

/// One atomic change of a bucket. Requests without effect, such as refused ones or a DELETE of a
/// missing key, are not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    pub operation: Operation,
    pub effects: Vec<Effect>,
}

/// The request that made a change. DeleteObjects is a DeleteObject for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    PutObject,
    CopyObject,
    RenameObject,
    DeleteObject,
    CreateMultipartUpload,
    /// Also UploadPartCopy.
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    /// No request: a call of a [`Handle`], or an object from before the log began.
    Inside,
}

/// What a change does to one key, or to one upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key has this object now.
    Stored { key: String, object: Box<Object> },
    /// The key has no object any more.
    Removed { key: String },
    /// An upload began.
    Begun { key: String, id: String },
    /// A part was uploaded, replacing one with the same number, if any.
    Part { id: String, number: i32, bytes: usize },
    /// An upload was completed or aborted.
    Ended { id: String },
}

/// The contents of a bucket after some changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By key.
    pub objects: BTreeMap<String, Object>,
    /// Uploads that are neither complete nor aborted: their ids and keys.
    pub uploads: BTreeMap<String, String>,
}

impl Contents {
    /// Applies one more change.
    pub fn apply(&mut self, mutation: &Mutation) {
        for effect in mutation.effects.iter().cloned() {
            match effect {
                Effect::Stored { key, object } => _ = self.objects.insert(key, *object),
                Effect::Removed { key } => _ = self.objects.remove(&key),
                Effect::Begun { key, id } => _ = self.uploads.insert(id, key),
                Effect::Part { .. } => {}
                Effect::Ended { id } => _ = self.uploads.remove(&id),
            }
        }
    }
}

/// The contents after these changes, starting from an empty bucket.
pub fn replay(mutations: &[Mutation]) -> Contents {
    let mut contents = Contents::default();
    mutations.iter().for_each(|mutation| contents.apply(mutation));
    contents
}

impl Effect {
    pub(super) fn stored(key: &str, stored: &Stored) -> Effect {
        Effect::Stored { key: key.to_owned(), object: Box::new(stored.object.clone()) }
    }
}

impl Handle {
    /// Keeps a log of all changes from now on, starting with the current contents.
    pub fn keep_mutations(&self) {
        let mut state = self.state();
        let State { buckets, uploads, .. } = &*state;
        let objects = buckets.iter().flat_map(|(bucket, objects)| {
            objects.iter().map(|(key, stored)| (bucket.clone(), Effect::stored(key, stored)))
        });
        let begun = uploads.iter().map(|(id, upload)| {
            let (key, id) = (upload.key.clone(), id.clone());
            (upload.bucket.clone(), Effect::Begun { key, id })
        });
        let inside = |effect| Mutation { operation: Operation::Inside, effects: vec![effect] };
        let log = objects.chain(begun).map(|(bucket, effect)| (bucket, inside(effect)));
        state.mutations = Some(log.collect());
    }

    /// Has each change from now on looked at when it is made, and kept in the log. Do not call the
    /// handle from there.
    pub fn watch_mutations(&self, watch: impl FnMut(&Mutation) + Send + 'static) {
        self.keep_mutations();
        self.state().watch = Some(Box::new(watch));
    }

    /// The changes of a bucket so far; none if no log is kept.
    pub fn mutations(&self, bucket: &str) -> Vec<Mutation> {
        let state = self.state();
        let log = state.mutations.iter().flatten().filter(|(of, _)| of == bucket);
        log.map(|(_, mutation)| mutation.clone()).collect()
    }
}

impl State {
    /// Adds a change to the log, if there is one. Called under the same lock as the change.
    pub(super) fn note<const N: usize>(
        &mut self,
        bucket: &str,
        operation: Operation,
        effects: impl FnOnce() -> [Effect; N],
    ) {
        if let Some(log) = &mut self.mutations {
            let mutation = Mutation { operation, effects: effects().into() };
            if let Some(watch) = &mut self.watch {
                watch(&mutation);
            }
            log.push((bucket.to_owned(), mutation));
        }
    }
}
