//! The documents of a store, such as listings and errors. They are read into memory, so their size
//! is limited; and a listing must end with its last tag, so a truncated one is an error.
//!
//! A body without Content-Length may end with its connection, and XML that is truncated between two
//! elements still parses: the missing keys would look deleted.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::Limited;
use hyper::body::{Body, Frame, SizeHint};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest document that is read into memory, in bytes: twice the size of a page of 1,000 keys
/// of 1,024 escaped bytes.
const LONGEST: usize = 16 << 20;

/// The end of a listing (S3 API reference, ListObjectsV2); white space may follow.
const LAST_TAG: &[u8] = b"</ListBucketResult>";

/// The last bytes that are kept: the last tag, and white space after it.
const TAIL: usize = 64;

/// A document that is not a listing.
pub fn bounded<B>(body: B) -> SdkBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + Unpin + 'static,
{
    SdkBody::from_body_1_x(Limited::new(body, LONGEST))
}

/// The document of a page of a listing.
pub fn listing<B>(body: B) -> SdkBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + Unpin + 'static,
{
    SdkBody::from_body_1_x(Whole { inner: Limited::new(body, LONGEST), tail: Vec::new() })
}

/// A body that fails unless it ends with [`LAST_TAG`].
struct Whole<B> {
    inner: Limited<B>,
    tail: Vec<u8>,
}

impl<B> Whole<B> {
    fn note(&mut self, data: &[u8]) {
        self.tail.extend_from_slice(&data[data.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }
}

impl<B> Body for Whole<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.note(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if !self.tail.trim_ascii_end().ends_with(LAST_TAG) => {
                // Reported once: then the body ends.
                self.tail = LAST_TAG.to_vec();
                Poll::Ready(Some(Err("the listing is cut off before its end".into())))
            }
            other => Poll::Ready(other),
        }
    }

    // Not delegated to the inner body: the end must always be polled.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    async fn read(document: &str, piece: usize) -> Result<usize, String> {
        let pieces: Vec<Result<_, std::convert::Infallible>> = document
            .as_bytes()
            .chunks(piece)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        let read = Whole { inner: Limited::new(body, LONGEST), tail: Vec::new() }.collect().await;
        read.map(|all| all.to_bytes().len()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_listing_ends_with_its_last_tag() {
        let whole = "<ListBucketResult><Name>b</Name></ListBucketResult>\r\n ";
        for piece in [1, 7, 1000] {
            assert_eq!(read(whole, piece).await, Ok(whole.len()));
            for end in 0..whole.len() - 3 {
                let cut = read(&whole[..end], piece).await;
                assert!(cut.is_err_and(|why| why.contains("cut off")), "{end} bytes");
            }
        }
    }
}
