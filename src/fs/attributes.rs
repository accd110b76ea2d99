//! Changing attributes: utimens(2), and the extended attributes that set when a file expires.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::inode::{File, Node};
use super::{Attr, Fs};
use crate::error::{Error, Result};
use crate::expiry::{self, Presence, Touch, Ttl};
use crate::pending::{End, Pending};
use crate::xattr;

/// How a change affects the times of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewAttr {
    pub mode: bool,
    pub owner: bool,
    pub times: bool,
    /// The time of modification is set to the present.
    pub now: bool,
}

impl Fs {
    /// Changes of modes, owners and times are accepted without effect (rule W10).
    ///
    /// # Errors
    /// `NotPermitted` under `--strict-attributes`.
    pub async fn set_attributes(&self, ino: u64, new: NewAttr) -> Result<Attr> {
        let writing = self.writing()?;
        if writing.strict_attributes && (new.mode || new.owner || new.times) {
            return Err(Error::NotPermitted("modes, owners and times are not kept"));
        }
        if writing.touch == Touch::Renew
            && new.now
            && let Node::File(file) = self.node(ino)?
        {
            self.renew(ino, &file).await?;
        }
        self.getattr(ino)
    }

    /// Renews the expiry of a file with the TTL of its name, if less than half of that is left.
    async fn renew(&self, ino: u64, file: &File) -> Result<()> {
        let writer = &self.writing()?.writer;
        let Ttl::For(ttl) = writer.ttl(&file.version.key) else { return Ok(()) };
        let now = self.bucket.clock.now();
        match file.expiry.at(now) {
            Presence::Live { left: Some(left) } if left < ttl / 2 => {
                self.restamp(ino, file, expiry::expires(Ttl::For(ttl), now)).await
            }
            _ => Ok(()),
        }
    }

    /// Sets another expiry of a version, which keeps its inode.
    async fn restamp(&self, ino: u64, file: &File, expires: Option<SystemTime>) -> Result<()> {
        let writer = &self.writing()?.writer;
        let restamped = writer.restamp(&file.object(), expires).await;
        let object = restamped.map_err(|error| {
            // Another version is there, or the change may have been made.
            self.catalog.forget(&file.version.key);
            match error {
                Error::PreconditionFailed | Error::NotFound => Error::Stale,
                other => other,
            }
        })?;
        self.catalog.wrote(object.clone(), bytes::Bytes::new());
        self.replace_version(ino, object);
        Ok(())
    }

    /// Sets or removes the expiry of a file: `user.expirefs.ttl` and `user.expirefs.expires`.
    ///
    /// # Errors
    /// `Invalid` for a value that is not a duration or date; `NotSupported` for any other
    /// attribute.
    pub async fn set_end(&self, ino: u64, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        self.writing()?;
        let now = self.bucket.clock.now();
        let end = match (name.to_str(), value) {
            (Some(xattr::TTL), Some(value)) => Some(End::After(parse_ttl(value)?)),
            (Some(xattr::EXPIRES), Some(value)) => Some(parse_end(value, now)?),
            (Some(xattr::TTL | xattr::EXPIRES), None) => None,
            _ => return Err(Error::NotSupported("only user.expirefs.ttl and .expires are set")),
        };
        match self.node(ino)? {
            Node::Directory(_) => Err(Error::NotPermitted("directories do not end")),
            Node::Pending(pending) => pending.stamp(end).await,
            Node::File(file) => {
                self.must_be_live(file.expiry)?;
                let writer = &self.writing()?.writer;
                let expires = match end {
                    Some(End::At(at)) => Some(at),
                    Some(End::After(ttl)) => expiry::expires(ttl, now),
                    None => expiry::expires(writer.ttl(&file.version.key), now),
                };
                self.restamp(ino, &file, expires).await
            }
        }
    }

    /// The extended attributes of a pending file.
    pub(super) fn pending_attributes(&self, pending: &Pending) -> Vec<(String, String)> {
        xattr::of_pending(&pending.key(), pending.expires_now())
    }
}

fn parse_ttl(value: &[u8]) -> Result<Ttl> {
    let text = str::from_utf8(value).unwrap_or_default().trim_end_matches('\0').trim();
    match text {
        "never" => Ok(Ttl::Never),
        _ => humantime::parse_duration(text)
            .map(Ttl::For)
            .map_err(|_| Error::Invalid("expected a duration such as 90s or 1h30m, or never")),
    }
}

fn parse_end(value: &[u8], now: SystemTime) -> Result<End> {
    let text = str::from_utf8(value).unwrap_or_default().trim_end_matches('\0').trim();
    let at = humantime::parse_rfc3339_weak(text).ok().or_else(|| expiry::http_date(text, now));
    let at = at.ok_or(Error::Invalid("expected a date such as 2026-11-25T20:00:00Z"))?;
    Ok(End::At(expiry::whole_second(at)))
}
