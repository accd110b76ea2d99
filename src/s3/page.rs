//! Decodes a page of a listing, and checks that it is complete.

use std::borrow::Cow;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::{length, version};
use crate::error::{Error, Result};
use crate::store::Page;
use crate::store::write::{Upload, UploadsPage};

/// # Errors
/// `Protocol` if entries are missing, or the rest of the listing cannot be requested: missing
/// entries would look deleted.
pub fn read(out: ListObjectsV2Output) -> Result<Page> {
    let encoded = out.encoding_type == Some(EncodingType::Url);
    let contents = out.contents.unwrap_or_default();
    let common = out.common_prefixes.unwrap_or_default();
    check_count(out.key_count, contents.len(), common.len())?;
    let mut page = Page::default();
    for object in contents {
        match decode(object.key.as_deref().unwrap_or_default(), encoded) {
            Ok(key) => {
                let size = length(object.size)?;
                let etag = object.e_tag.as_deref();
                page.objects.push(version(&key, etag, object.last_modified, size)?);
            }
            Err(key) => page.undecodable.push(key.to_owned()),
        }
    }
    for prefix in &common {
        match decode(prefix.prefix.as_deref().unwrap_or_default(), encoded) {
            Ok(prefix) => page.prefixes.push(prefix.into_owned()),
            Err(prefix) => page.undecodable.push(prefix.to_owned()),
        }
    }
    page.next = match (out.is_truncated, out.next_continuation_token) {
        (Some(true), None) => {
            return Err(Error::Protocol("a page that others follow, without their token".into()));
        }
        (Some(true), next) => next,
        _ => None,
    };
    Ok(page)
}

/// `KeyCount` counts keys and common prefixes (S3 API reference, ListObjectsV2). A store that
/// counts only the keys is accepted, too; so is one that omits the count.
fn check_count(count: Option<i32>, keys: usize, prefixes: usize) -> Result<()> {
    let agrees = |n: usize| count.is_none_or(|count| usize::try_from(count) == Ok(n));
    match agrees(keys + prefixes) || agrees(keys) {
        true => Ok(()),
        false => Err(Error::Protocol(
            format!(
                "a page of {keys} keys and {prefixes} common prefixes that says it has {}",
                count.unwrap_or_default()
            )
            .into(),
        )),
    }
}

/// A page of ListMultipartUploads, with its keys as they are: in their encoding a `+` may stand for
/// itself (SeaweedFS) or for a space (S3).
pub fn of_uploads(out: ListMultipartUploadsOutput) -> Result<UploadsPage> {
    let upload = |key: &str, id: &str| Upload { key: key.into(), id: id.to_owned() };
    let mut uploads = Vec::new();
    for one in out.uploads() {
        let created = one.initiated().and_then(|at| SystemTime::try_from(*at).ok());
        let (Some(key), Some(id), Some(created)) = (one.key(), one.upload_id(), created) else {
            return Err(Error::Protocol("an upload without a key, an id or a time".into()));
        };
        uploads.push((upload(key, id), created));
    }
    let next = match (out.is_truncated, out.next_key_marker(), out.next_upload_id_marker()) {
        (Some(true), Some(key), Some(id)) => Some(upload(key, id)),
        (Some(true), _, _) => {
            return Err(Error::Protocol("a page of uploads that does not say what is next".into()));
        }
        _ => None,
    };
    Ok(UploadsPage { uploads, next })
}

/// A key or prefix of a page. As in a query, `+` stands for a space: S3 encodes and botocore
/// decodes it so. `Err` with the original text if it is not UTF-8, as keys must be.
fn decode(text: &str, encoded: bool) -> Result<Cow<'_, str>, &str> {
    if !encoded {
        return Ok(text.into());
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| text)?;
    Ok(decoded.into_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2OutputBuilder;
    use aws_sdk_s3::types::{CommonPrefix, Object};

    fn one(key: &str, prefix: &str) -> ListObjectsV2OutputBuilder {
        let object = Object::builder().key(key).size(1).build();
        let prefix = CommonPrefix::builder().prefix(prefix).build();
        ListObjectsV2Output::builder().contents(object).common_prefixes(prefix)
    }

    #[test]
    fn keys_and_prefixes_are_decoded_if_the_store_encoded_them() {
        let out = || one("d/a%01+%2B%25", "d/%EF%BF%BE/");
        let plain = read(out().build()).unwrap();
        assert_eq!(&*plain.objects[0].key, "d/a%01+%2B%25");
        let decoded = read(out().encoding_type(EncodingType::Url).build()).unwrap();
        assert_eq!(&*decoded.objects[0].key, "d/a\u{1} +%");
        assert_eq!(decoded.prefixes, ["d/\u{fffe}/"]);
        let out = one("%ff", "%c3%28/").encoding_type(EncodingType::Url);
        let page = read(out.build()).unwrap();
        assert_eq!((page.objects.len(), page.prefixes.len()), (0, 0));
        assert_eq!(page.undecodable, ["%ff", "%c3%28/"]);
    }

    #[test]
    fn an_incomplete_page_is_an_error() {
        for (count, right) in [(2, true), (1, true), (3, false), (0, false), (-1, false)] {
            let page = read(one("a", "b/").key_count(count).build());
            assert_eq!(page.is_ok(), right, "{count}: {page:?}");
        }
        let next = |token: Option<&str>| {
            let out = one("a", "b/").is_truncated(true);
            read(out.set_next_continuation_token(token.map(str::to_owned)).build())
        };
        assert_eq!(next(Some("t")).unwrap().next.as_deref(), Some("t"));
        assert!(matches!(next(None), Err(Error::Protocol(_))));
    }
}
