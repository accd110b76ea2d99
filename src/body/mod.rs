//! Bodies: one open GetObject response each, and the reader of a file handle that owns it.
//!
//! Owns the caps on open bodies and on window memory, and decides what each handle asks the store
//! for. A [`Body`] needs a [`Permit`] to be opened. Dropping it on any path (expired, refused,
//! cancelled, panicked, unmounted) closes the response first and then releases the permit: field
//! order. Knows nothing of names, expiry, inodes or the kernel.

mod accounts;
mod buffer;
mod gauges;
mod ledger;
mod pace;
mod pattern;
mod reader;
mod stage;
mod window;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

pub use accounts::{Accounts, Keep, Patience};
pub use buffer::{Buffer, Emptied};
pub use gauges::State;
pub use ledger::{Holder, Idle, Ledger, Nobody, Permit, Unit};
pub use reader::Reader;

use crate::error::{Error, Result};
use crate::store::{Content, Object, Store, Version};

/// Up to this many unread bytes of a response are read and discarded, so that its connection can be
/// reused; reading more costs more than a new connection.
const DRAIN: u64 = 64 << 10;
/// The longest time this may take.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// An open response, and the right to have it.
struct Body {
    content: Content,
    /// Offset of the next byte to come.
    next: u64,
    /// Offset after the last one.
    end: u64,
    // Last: released after the response is closed.
    permit: Permit,
}

impl Body {
    async fn open(
        store: &dyn Store,
        version: &Version,
        range: Range<u64>,
        permit: Permit,
    ) -> Result<(Body, Object)> {
        let (object, content) = store.get(version, range.clone()).await?;
        Ok((Body { content, next: range.start, end: range.end, permit }, object))
    }

    fn is_drained(&self) -> bool {
        self.next == self.end
    }

    /// The next bytes. Call it until the body is drained.
    async fn pull(&mut self) -> Result<Bytes> {
        let missing = self.end - self.next;
        match self.content.next().await {
            Some(Ok(chunk)) if chunk.len() as u64 <= missing => {
                self.next += chunk.len() as u64;
                Ok(chunk)
            }
            Some(Ok(_)) => Err(Error::Protocol("a body longer than announced".into())),
            Some(Err(error)) => Err(error),
            None => Err(Error::Protocol(format!("a body that ends {missing} bytes early").into())),
        }
    }

    /// Closes the response at once, and keeps the permit for the next one.
    fn into_permit(self) -> Permit {
        self.permit
    }

    /// The same, after reading what is left if that is little.
    async fn close(mut self) -> Permit {
        let drain = async {
            while !self.is_drained() && self.end - self.next <= DRAIN && self.pull().await.is_ok() {
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
        self.permit
    }
}
