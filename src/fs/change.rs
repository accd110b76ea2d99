//! Changing names: unlink, rename, mkdir, rmdir.

use std::ffi::OsStr;
use std::sync::Arc;

use futures_util::StreamExt;
use tracing::{info, warn};

use super::inode::{File, Node};
use super::overlay::Draft;
use super::{Attr, Fs};
use crate::catalog::Known;
use crate::error::{Error, Result};
use crate::expiry::{self, Presence};
use crate::name::Prefix;
use crate::pending::{Closing, CommittedAs, Held, Wanted};
use crate::store::write::{Condition, DeleteIf, NewHeaders};
use crate::store::{ListRequest, Object, Pages, Version};

/// Maximum number of expired objects that rmdir(2) deletes (rule W9).
const CORPSES: usize = 1000;

/// Concurrent deletes.
const DELETES: usize = 8;

/// How often an unlink or a rename is retried if the name changes meanwhile.
const LOOKS: usize = 3;

/// How rename(2) treats an existing file with the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Yes,
    /// RENAME_NOREPLACE
    No,
}

impl Replace {
    fn wanted(self) -> Wanted {
        match self {
            Replace::Yes => Wanted::Any,
            Replace::No => Wanted::New,
        }
    }
}

impl Fs {
    /// Deletes a file.
    ///
    /// # Errors
    /// `NotFound`, without a request, if the object has expired.
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let writing = self.writing()?;
        let key = self.new_key(parent, name)?;
        if let Some(Draft { pending, origin, .. }) = writing.overlay.take(&key) {
            pending.keep_base().await;
            let in_store = pending.unlink().await.map(|object| object.version);
            let in_store = in_store.or_else(|| origin.map(|file| (*file.version).clone()));
            if let Some(version) = in_store {
                self.delete(version).await?;
            }
        } else {
            let version = self.live_file(&key).await?.version.clone();
            self.delete((*version).clone()).await?;
        }
        self.removed(&key);
        Ok(())
    }

    /// A live file by its key.
    async fn live_file(&self, key: &str) -> Result<Arc<File>> {
        let fact = self.catalog.resolve(key, |_| true).await?;
        match (self.catalog.presence(&fact), fact.known) {
            (Presence::Live { .. }, Known::File { version, expiry, about }) => {
                Ok(Arc::new(File::new(version, expiry, about)))
            }
            (Presence::Live { .. }, Known::Directory) => Err(Error::IsADirectory),
            (Presence::Unreadable, _) => Err(Error::Unparsable),
            _ => Err(Error::NotFound),
        }
    }

    /// Deletes a version, and any version that has replaced it since: unlink(2) removes the name.
    async fn delete(&self, mut version: Version) -> Result<()> {
        let writer = &self.writing()?.writer;
        for _ in 0..LOOKS {
            match writer.delete(&version).await {
                Ok(()) => return Ok(()),
                Err(Error::PreconditionFailed) => {}
                Err(error) => return Err(error),
            }
            match writer.live(&version.key).await? {
                Some(object) => version = object.version,
                None => return Ok(()),
            }
        }
        Err(Error::Stale)
    }

    /// Records that a key was removed.
    fn removed(&self, key: &str) {
        if let Some(writing) = &self.writing {
            writing.overlay.keep_directory(&Fs::directory_of(key));
        }
        self.catalog.removed(key);
    }

    /// Renames a file; a pending one is committed under the new name.
    ///
    /// # Errors
    /// `CrossDevice` for a directory: mv(1) copies then. `Exists` with [`Replace::No`].
    pub async fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        replace: Replace,
        pid: u32,
    ) -> Result<()> {
        let writing = self.writing()?;
        let _working = self.handles.opening();
        let (source, target) = (self.new_key(from.0, from.1)?, self.new_key(to.0, to.1)?);
        if source == target {
            return Ok(());
        }
        let at_target = writing.overlay.draft(&target);
        if replace == Replace::No {
            if at_target.is_some() {
                return Err(Error::Exists);
            }
            match self.live_file(&target).await {
                Ok(_) | Err(Error::IsADirectory) => return Err(Error::Exists),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        // What is pending under the new name is not committed there any more. The kernel renames one
        // file of a directory at a time, so that none waits for another that waits for it.
        let held = match &at_target {
            Some(draft) => {
                draft.pending.keep_base().await;
                Some(draft.pending.hold().await)
            }
            None => None,
        };
        // A writer meanwhile: if its last handle is closed now, it is settled under its new name.
        let draft = writing.overlay.draft(&source);
        let opened = draft.and_then(|draft| Some((writing.overlay.open(&draft.pending)?, draft)));
        let is_gone = match opened {
            Some((pending, draft)) => {
                let renamed = self.rename_pending(draft, &source, &target, replace).await;
                if renamed.is_ok()
                    && let Some(ino) = self.inodes.known_number_of_pending(&pending)
                {
                    self.inodes.moved(ino, to.0);
                }
                if pending.close() {
                    let parent = if renamed.is_ok() { to.0 } else { from.0 };
                    let ino = self.inodes.pending(parent, &pending);
                    self.complete(ino, &pending, pid).await;
                    self.inodes.forget(ino, 1);
                }
                renamed?
            }
            None => self.rename_file(&source, (to.0, &target), replace).await?,
        };
        held.map(Held::unlink);
        if let Some(Draft { pending, .. }) = &at_target {
            writing.overlay.remove(&target, pending);
        }
        match is_gone {
            true => self.removed(&source),
            false => self.catalog.forget(&source),
        }
        Ok(())
    }

    /// Returns whether nothing is left under the old name.
    async fn rename_pending(
        &self,
        draft: Draft,
        source: &str,
        target: &str,
        replace: Replace,
    ) -> Result<bool> {
        let writing = self.writing()?;
        let Draft { pending, origin, number } = draft;
        let origin = origin.map(|file| file.object());
        // What was sent under the old name and is kept nowhere else is committed there first.
        if pending.has_left().await {
            self.commit(&pending, Closing::Now).await?;
        }
        // With its key, before anything else is waited for.
        let renamed = || {
            writing.overlay.remove(source, &pending);
            writing.overlay.insert(Draft { pending: pending.clone(), origin: None, number });
        };
        match pending.commit_as(target, replace.wanted()).await {
            Ok(CommittedAs::Anew { object, before }) => {
                renamed();
                self.committed(&pending, object).await;
                // What was under the old name goes.
                match before.or(origin) {
                    Some(object) => Ok(self.delete_source(object.version).await),
                    None => Ok(true),
                }
            }
            // Nothing has changed since it was committed: a rename in the store. What is written
            // meanwhile is committed after it.
            Ok(CommittedAs::Unchanged { before, held }) => {
                let object = before.or(origin).ok_or(Error::Stale)?;
                let (object, is_gone) = self.move_object(&object, target, replace).await?;
                self.catalog.wrote(object.clone(), bytes::Bytes::new());
                held.moved(object);
                renamed();
                Ok(is_gone)
            }
            // It is still there under its old name.
            Err(Error::Exists) => {
                self.catalog.forget(target);
                Err(Error::Exists)
            }
            Err(error) => {
                self.commit_failed(&pending);
                self.catalog.forget(target);
                Err(error)
            }
        }
    }

    /// Returns whether nothing is left under the old name.
    async fn rename_file(
        &self,
        source: &str,
        (parent, target): (u64, &str),
        replace: Replace,
    ) -> Result<bool> {
        let file = match self.live_file(source).await {
            Ok(file) => file,
            Err(Error::IsADirectory) => return Err(Error::CrossDevice),
            Err(error) => return Err(error),
        };
        let ino = self.inodes.known_number_of_file(&file.version);
        let (object, is_gone) = self.move_object(&file.object(), target, replace).await?;
        self.catalog.wrote(object.clone(), bytes::Bytes::new());
        if let Some(ino) = ino {
            self.inodes.moved(ino, parent);
            self.replace_version(ino, object);
        }
        Ok(is_gone)
    }

    /// Makes the inode of a version another one of the same content: the kernel's pages stay valid, and
    /// who reads the old version counts as a reader of the new one. An edit leaves them their inode.
    pub(super) fn replace_version(&self, ino: u64, object: Object) {
        if let Some(Node::File(before)) = self.inodes.get(ino)
            && let Some(file) = self.file_of(object, before.kernel.clone())
        {
            let lifetime = |file: &File| self.catalog.lifetime(file.expiry);
            let ends_earlier = lifetime(&file) < lifetime(&before);
            self.inodes.rebind(ino, Node::File(file));
            // The kernel may cache the name for as long as the version before was to live.
            if ends_earlier {
                self.inodes.doubt(ino);
            }
        }
    }

    /// Gives a version another key in the store. Its end goes with it, unless another rule holds for
    /// the new name. Returns whether nothing is left under the old key, too.
    async fn move_object(
        &self,
        source: &Object,
        target: &str,
        replace: Replace,
    ) -> Result<(Object, bool)> {
        let writing = self.writing()?;
        let writer = &writing.writer;
        let rules = &writer.rules.ttl;
        let (old, new) = (writer.path(&source.version.key), writer.path(target));
        let anew = match rules.rule(new) {
            rule if rule == rules.rule(old) => None,
            _ => Some(expiry::expires(rules.ttl(new), self.bucket.clock.now())),
        };
        let object = writer.rename(source, target, &replace.wanted(), anew).await?;
        let is_gone = object.renamed || self.delete_source(source.version.clone()).await;
        Ok((object.object, is_gone))
    }

    /// Deletes what was renamed. A failure is no error of the rename: both names are there. Returns
    /// whether it is gone.
    async fn delete_source(&self, version: Version) -> bool {
        let key = version.key.clone();
        let deleted = match self.writing() {
            Ok(writing) => writing.writer.delete(&version).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) | Err(Error::NotFound) => return true,
            Err(Error::PreconditionFailed) => {
                info!(%key, "the source of a rename was replaced meanwhile, and stays");
            }
            Err(error) => {
                warn!(%key, "the source of a rename could not be deleted: {error}");
            }
        }
        false
    }

    /// Makes a directory: a marker without an expiry.
    pub async fn mkdir(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let writing = self.writing()?;
        let key = self.new_key(parent, name)?;
        let prefix = Prefix::new(&key);
        if writing.overlay.draft(&key).is_some() || writing.overlay.is_directory(&prefix) {
            return Err(Error::Exists);
        }
        match self.live_file(&key).await {
            Ok(_) | Err(Error::IsADirectory) => return Err(Error::Exists),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        let marker = prefix.as_str();
        if marker.len() > crate::name::KEY_MAX {
            return Err(Error::NameTooLong);
        }
        let _body = writing.writer.body().await?;
        let store = &writing.writer.store;
        store.put(marker, &NewHeaders::default(), bytes::Bytes::new(), &Condition::Any).await?;
        self.catalog.appeared(marker);
        let fact = self.catalog.directory();
        self.catalog.note_directory(&key, &fact);
        let ino = self.inodes.directory(parent, &prefix);
        Ok(self.directory_attr(ino, super::kernel_ttl(self.catalog.ttl(&fact))))
    }

    /// Removes a directory without live entries; expired objects below it are deleted, too.
    ///
    /// # Errors
    /// `NotEmpty` if anything below is live, or too many objects have expired.
    pub async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let writing = self.writing()?;
        let key = self.new_key(parent, name)?;
        let prefix = Prefix::new(&key);
        if writing.overlay.draft(&key).is_some() {
            return Err(Error::NotADirectory);
        }
        if writing.overlay.has_drafts_below(&prefix) {
            return Err(Error::NotEmpty("a file in it is being written".to_owned()));
        }
        let (corpses, marker) = self.corpses_below(&prefix).await?;
        if corpses.is_empty() && marker.is_none() && !writing.overlay.is_directory(&prefix) {
            return match self.live_file(&key).await {
                Ok(_) => Err(Error::NotADirectory),
                Err(Error::IsADirectory) => self.delete_folder(&key, &prefix).await,
                Err(error) => Err(error),
            };
        }
        let writer = &writing.writer;
        let delete = |version: Version| async move { writer.delete(&version).await };
        let deletes = corpses.clone().into_iter().map(delete);
        let mut deletes = futures_util::stream::iter(deletes).buffer_unordered(DELETES);
        while let Some(deleted) = deletes.next().await {
            match deleted {
                Ok(()) | Err(Error::NotFound) => {}
                Err(Error::PreconditionFailed) => {
                    return Err(Error::NotEmpty("a file in it was renewed just now".to_owned()));
                }
                Err(error) => return Err(error),
            }
        }
        drop(deletes);
        match marker {
            None => self.delete_folder(&key, &prefix).await?,
            Some(marker) => match writer.delete(&marker).await {
                Ok(()) | Err(Error::NotFound | Error::PreconditionFailed) => {}
                Err(error) => return Err(error),
            },
        }
        writing.overlay.remove_directory(&prefix);
        writing.overlay.keep_directory(&Fs::directory_of(&key));
        corpses.iter().for_each(|version| self.catalog.removed(&version.key));
        self.catalog.removed(&key);
        Ok(())
    }

    /// Deletes what stores with real folders, such as SeaweedFS, list as a prefix when the last
    /// object below it is gone. Elsewhere there is no such key.
    async fn delete_folder(&self, key: &str, prefix: &Prefix) -> Result<()> {
        let deleted = self.writing()?.writer.store.delete(prefix.as_str(), &DeleteIf::Any).await;
        self.catalog.removed(key);
        match deleted {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The expired objects below a directory, and its marker.
    ///
    /// # Errors
    /// `NotEmpty` if there is anything else, or there are too many.
    async fn corpses_below(&self, prefix: &Prefix) -> Result<(Vec<Version>, Option<Version>)> {
        let request = ListRequest { recursive: true, ..ListRequest::level(prefix.as_str()) };
        let mut pages = Pages::new(&*self.bucket.store, request);
        let (mut corpses, mut marker) = (Vec::new(), None);
        while let Some(page) = pages.next().await? {
            if !page.undecodable.is_empty() {
                return Err(Error::NotEmpty("it has keys that are no UTF-8".to_owned()));
            }
            let (own, others): (Vec<Version>, Vec<Version>) =
                page.objects.into_iter().partition(|version| *version.key == *prefix.as_str());
            marker = own.into_iter().next().or(marker);
            if others.iter().any(|version| version.key.ends_with('/')) {
                return Err(Error::NotEmpty("a directory lies in it".to_owned()));
            }
            if corpses.len() + others.len() > CORPSES {
                let many = format!("over {CORPSES} objects lie below: see `expirefs sweep`");
                warn!(key = %prefix, "a directory is not removed: {many}");
                return Err(Error::NotEmpty(many));
            }
            let versions: Vec<&Version> = others.iter().collect();
            let facts = self.catalog.confirm(&versions).await;
            for (version, fact) in others.iter().zip(facts) {
                let fact = match fact {
                    Some(fact) => Some(fact),
                    None => self.catalog.head(&version.key).await?,
                };
                let Some(fact) = fact else { continue };
                match self.catalog.presence(&fact) {
                    Presence::Expired => {}
                    Presence::Live { .. } => {
                        return Err(Error::NotEmpty(format!("{} is live", version.key)));
                    }
                    Presence::Unreadable => return Err(Error::Unparsable),
                }
            }
            corpses.extend(others);
        }
        Ok((corpses, marker))
    }
}
