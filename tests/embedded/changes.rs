//! Requests that change a bucket, and their conditions.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier,
};
use expirefs::embedded::{Conditions, Object, Personality};

use super::{HELLO, Rig};

const MIB: usize = 1 << 20;

/// The MD5 of `old`, as an ETag.
const OLD: &str = "\"149603e6c03516362a8da23f624db945\"";

impl Rig {
    /// The current content of a key.
    async fn content(&self, key: &str) -> Vec<u8> {
        self.raw(&format!("GET /bkt/{key}"), &[], b"").await.body
    }

    /// Begins an upload of parts of these bytes.
    async fn upload(&self, key: &str, parts: &[&[u8]]) -> (String, Vec<CompletedPart>) {
        let create = self.signed.create_multipart_upload().bucket("bkt").key(key);
        let create = create.content_type("a/b").metadata("who", "me");
        let id = create.send().await.unwrap().upload_id.unwrap();
        let mut completed = Vec::new();
        for (number, bytes) in (1..).zip(parts) {
            let part = self.signed.upload_part().bucket("bkt").key(key).upload_id(&id);
            let part = part.part_number(number).body(ByteStream::from(bytes.to_vec()));
            let etag = part.send().await.unwrap().e_tag.unwrap();
            completed.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
        }
        (id, completed)
    }

    fn complete(
        &self,
        key: &str,
        id: &str,
        parts: impl Into<Vec<CompletedPart>>,
    ) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder
    {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.into())).build();
        let complete = self.signed.complete_multipart_upload().bucket("bkt").key(key);
        complete.upload_id(id).multipart_upload(parts)
    }
}

/// The code of a refusal.
fn code<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug, R: std::fmt::Debug>(
    refused: Result<T, SdkError<E, R>>,
) -> String {
    refused.unwrap_err().code().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn an_upload_is_an_object_once_it_is_complete() {
    let rig = Rig::new().await;
    let large = vec![7; 5 * MIB];
    let (id, parts) = rig.upload("k", &[&large, b"tail"]).await;
    assert_eq!(rig.raw("GET /bkt/k", &[], b"").await.status(), 404);
    assert_eq!(rig.handle.uploads("bkt"), 1);

    let swapped = [parts[1].clone(), parts[0].clone()];
    let other = CompletedPart::builder().part_number(2).e_tag(HELLO).build();
    for (parts, wants) in [
        (vec![], "MalformedXML"),
        (vec![parts[0].clone(), other], "InvalidPart"),
        (swapped.to_vec(), "EntityTooSmall"),
    ] {
        assert_eq!(code(rig.complete("k", &id, parts).send().await), wants);
    }
    let done = rig.complete("k", &id, parts.clone()).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""), "{done:?}");
    let got = rig.get("k").send().await.unwrap();
    assert_eq!((got.content_type(), got.e_tag()), (Some("a/b"), done.e_tag()));
    assert_eq!(got.metadata().unwrap()["who"], "me");
    assert_eq!(rig.content("k").await, [&large, &b"tail"[..]].concat());
    assert_eq!(code(rig.complete("k", &id, parts).send().await), "NoSuchUpload");

    let (id, parts) = rig.upload("k", &[&large, &large]).await;
    let swapped = [parts[1].clone(), parts[0].clone()];
    assert_eq!(code(rig.complete("k", &id, swapped).send().await), "InvalidPartOrder");
    let abort = rig.signed.abort_multipart_upload().bucket("bkt").key("k").upload_id(&id);
    abort.clone().send().await.unwrap();
    assert_eq!(code(abort.send().await), "NoSuchUpload");
    assert_eq!(rig.handle.uploads("bkt"), 0);
}

#[tokio::test]
async fn a_copy_takes_all_headers_or_none() {
    let rig = Rig::new().await;
    let put = rig.put("k").content_type("a/b").content_encoding("br").metadata("who", "me");
    put.send().await.unwrap();
    rig.raw("PUT /bkt/expiring", &[("expires", b"never")], b"x").await;
    let copy = |from: &str, to: &str| {
        let copy = rig.signed.copy_object().bucket("bkt").key(to);
        copy.copy_source(format!("bkt/{from}"))
    };
    copy("expiring", "same").send().await.unwrap();
    assert_eq!(rig.raw("GET /bkt/same", &[], b"").await.header("expires"), [b"never"]);
    copy("k", "a%20b").send().await.unwrap();
    let got = rig.get("a%20b").send().await.unwrap();
    assert_eq!((got.content_type(), got.content_encoding()), (Some("a/b"), Some("br")));
    assert_eq!(got.metadata().unwrap()["who"], "me");

    assert_eq!(code(copy("k", "k").send().await), "InvalidRequest");
    let replaced = copy("k", "k").metadata_directive(MetadataDirective::Replace);
    replaced.content_type("c/d").send().await.unwrap();
    let got = rig.get("k").send().await.unwrap();
    assert_eq!((got.content_type(), got.content_encoding()), (Some("c/d"), None));
    assert_eq!(code(copy("none", "k").send().await), "NoSuchKey");
}

#[tokio::test]
async fn copies_uploads_and_deletes_check_their_conditions() {
    let rig = Rig::new().await;
    let reset = || {
        rig.handle.put("bkt", "old", Object::new("old"));
        rig.handle.put("bkt", "new", Object::new("hello"));
    };
    let bucket = || rig.signed.copy_object().bucket("bkt").key("old").copy_source("bkt/new");
    let delete = || rig.signed.delete_object().bucket("bkt").key("old");
    for (copy, status) in [
        (bucket().copy_source_if_match(OLD), 412),
        (bucket().if_match(HELLO), 412),
        (bucket().if_none_match("*"), 412),
        (bucket().key("absent").if_match(HELLO), 404),
        (bucket().copy_source_if_match(HELLO).if_match(OLD), 200),
        (bucket().key("absent").if_none_match("*"), 200),
    ] {
        reset();
        let sent = copy.send().await.map_err(|e| e.raw_response().unwrap().status().as_u16());
        assert_eq!(sent.map_or_else(|status| status, |_| 200), status);
        if status != 200 {
            assert_eq!(rig.content("old").await, b"old");
        }
    }
    let at = rig.get("old").send().await.unwrap().last_modified.unwrap();
    let before = DateTime::from_secs(at.secs() - 1);
    for (delete, status) in [
        (delete().if_match(HELLO), 412),
        (delete().if_match_size(5), 412),
        (delete().if_match_last_modified_time(before), 412),
        (delete().key("none").if_match(HELLO), 404),
        (delete().if_match(OLD).if_match_size(3), 204),
    ] {
        reset();
        let sent = delete.send().await.map_err(|e| e.raw_response().unwrap().status().as_u16());
        assert_eq!(sent.map_or_else(|status| status, |_| 204), status);
        assert_eq!(
            rig.raw("GET /bkt/old", &[], b"").await.status(),
            if status == 204 { 404 } else { 200 }
        );
    }
    reset();
    let named = |key: &str, tag: &str| ObjectIdentifier::builder().key(key).e_tag(tag).build();
    let both = [named("old", OLD).unwrap(), named("new", OLD).unwrap()];
    let both = Delete::builder().set_objects(Some(both.into())).build().unwrap();
    let sent = rig.signed.delete_objects().bucket("bkt").delete(both).send().await.unwrap();
    assert_eq!((sent.deleted().len(), sent.errors()[0].code()), (1, Some("PreconditionFailed")));
    assert_eq!(rig.content("new").await, b"hello");

    for (none_match, if_match, done) in
        [(Some("*"), None, false), (None, Some(OLD), false), (None, Some(HELLO), true)]
    {
        reset();
        let before = rig.handle.uploads("bkt");
        let (id, parts) = rig.upload("new", &[b"part"]).await;
        let complete = rig.complete("new", &id, parts);
        let complete = complete
            .set_if_none_match(none_match.map(Into::into))
            .set_if_match(if_match.map(Into::into));
        let sent = complete.send().await;
        assert_eq!(sent.is_ok(), done, "{sent:?}");
        assert_eq!(rig.handle.uploads("bkt") - before, usize::from(!done));
    }
}

#[tokio::test]
async fn a_rename_moves_the_object_or_makes_an_empty_one() {
    let rig = Rig::new().await;
    rig.raw("PUT /bkt/a%20b", &[("expires", b"never")], b"old").await;
    let rename = || {
        let rename = rig.signed.rename_object().bucket("bkt").key("to");
        rename.rename_source("bkt/a%20b")
    };
    assert_eq!(code(rename().source_if_match(HELLO).send().await), "PreconditionFailed");
    rename().source_if_match(OLD).destination_if_none_match("*").send().await.unwrap();
    let moved = rig.raw("GET /bkt/to", &[], b"").await;
    assert_eq!(
        (&moved.body[..], &moved.header("expires")[..]),
        (&b"old"[..], &[&b"never"[..]][..])
    );
    assert_eq!(rig.raw("GET /bkt/a%20b", &[], b"").await.status(), 404);
    assert_eq!(code(rename().send().await), "NoSuchKey");

    rig.handle.put("bkt", "a b", Object::new("hello"));
    assert_eq!(code(rename().destination_if_none_match("*").send().await), "PreconditionFailed");
    rig.handle.behave_as(Personality { takes_rename_for_put: true, ..Personality::S3 });
    rename().send().await.unwrap();
    assert_eq!((rig.content("to").await, rig.content("a%20b").await), (vec![], b"hello".to_vec()));
}

/// As measured on Ceph RGW and Garage.
#[tokio::test]
async fn conditions_can_be_ignored_or_require_etags_without_quotes() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "old", Object::new("old"));
    rig.handle.behave_as(Personality { bare_etags: true, ..Personality::S3 });
    assert_eq!(code(rig.put("old").if_match(OLD).send().await), "PreconditionFailed");
    rig.put("old").if_match(OLD.trim_matches('"')).send().await.unwrap();
    rig.handle.behave_as(Personality { ignores: &[Conditions::Put], ..Personality::S3 });
    rig.put("old").if_none_match("*").send().await.unwrap();
    let delete = rig.signed.delete_object().bucket("bkt").key("old").if_match(OLD);
    assert_eq!(code(delete.send().await), "PreconditionFailed");
}
