//! The log of changes, and what each prefix of it leads to.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier,
};
use expirefs::embedded::{Contents, Effect, Mutation, Object, Operation, replay};

use super::{HELLO, Rig, names};

impl Rig {
    fn log(&self) -> Vec<Mutation> {
        self.handle.mutations("bkt")
    }

    /// What is in the bucket, by its listing.
    async fn objects(&self) -> Vec<(String, Option<Object>)> {
        let keys = names(self.list(), 1000).await;
        keys.into_iter().map(|key| (key.clone(), self.handle.get("bkt", &key))).collect()
    }
}

#[tokio::test]
async fn replaying_each_prefix_gives_the_contents_at_that_time() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "first", Object::new("first").expires("never"));
    rig.handle.keep_mutations();
    rig.handle.put("other", "k", Object::new("of another bucket"));

    // Each step, by the number of changes that it makes.
    let copy = |key: &str| rig.signed.copy_object().bucket("bkt").key(key).copy_source("bkt/first");
    let delete = |key: &str| rig.signed.delete_object().bucket("bkt").key(key);
    let upload = |key: &str| rig.signed.create_multipart_upload().bucket("bkt").key(key);
    let part = |key: &str, id: &str, number| {
        let part = rig.signed.upload_part().bucket("bkt").key(key).upload_id(id);
        part.part_number(number).body(ByteStream::from_static(b"part"))
    };
    let mut seen = vec![(1, rig.objects().await, 0)];
    let mut see = async || {
        let entry = (rig.log().len(), rig.objects().await, rig.handle.uploads("bkt"));
        seen.push(entry);
    };
    rig.put("a").send().await.unwrap();
    see().await;
    rig.put("a").body(ByteStream::from_static(b"again")).send().await.unwrap();
    see().await;
    copy("b").send().await.unwrap();
    see().await;
    let stamp = copy("first").metadata_directive(MetadataDirective::Replace).content_type("c/d");
    stamp.send().await.unwrap();
    see().await;
    rig.signed.rename_object().bucket("bkt").key("c").rename_source("bkt/b").send().await.unwrap();
    see().await;
    delete("a").send().await.unwrap();
    see().await;
    let id = upload("d").send().await.unwrap().upload_id.unwrap();
    see().await;
    let aborted = upload("e").send().await.unwrap().upload_id.unwrap();
    see().await;
    let etag = part("d", &id, 1).send().await.unwrap().e_tag.unwrap();
    see().await;
    let completed = CompletedPart::builder().part_number(1).e_tag(etag).build();
    let parts = CompletedMultipartUpload::builder().parts(completed).build();
    let complete = rig.signed.complete_multipart_upload().bucket("bkt").key("d").upload_id(&id);
    complete.multipart_upload(parts).send().await.unwrap();
    see().await;
    let abort = rig.signed.abort_multipart_upload().bucket("bkt").key("e").upload_id(&aborted);
    abort.send().await.unwrap();
    see().await;
    rig.handle.delete("bkt", "d");
    see().await;

    let log = rig.log();
    assert_eq!(log.len(), seen.len());
    let mut contents = Contents::default();
    for (mutation, (count, objects, uploads)) in log.iter().zip(&seen) {
        contents.apply(mutation);
        assert_eq!(contents, replay(&log[..*count]));
        let replayed = contents.objects.clone().into_iter();
        let replayed: Vec<_> = replayed.map(|(key, object)| (key, Some(object))).collect();
        assert_eq!((&replayed, contents.uploads.len()), (objects, *uploads), "{mutation:?}");
    }
    assert_eq!(replay(&log[..9]).uploads, [(id, "d".into()), (aborted, "e".into())].into());
    use Operation::*;
    let operations: Vec<Operation> = log.iter().map(|mutation| mutation.operation).collect();
    let expected = [
        Inside,
        PutObject,
        PutObject,
        CopyObject,
        CopyObject,
        RenameObject,
        DeleteObject,
        CreateMultipartUpload,
        CreateMultipartUpload,
        UploadPart,
        CompleteMultipartUpload,
        AbortMultipartUpload,
        Inside,
    ];
    assert_eq!(operations, expected);
}

#[tokio::test]
async fn requests_without_effect_are_not_logged() {
    let rig = Rig::new().await;
    rig.put("k").send().await.unwrap();
    assert_eq!(rig.log(), []);
    rig.handle.keep_mutations();
    let there = rig.log();
    assert_eq!(there.len(), 1);

    rig.put("k").if_none_match("*").send().await.unwrap_err();
    rig.signed.delete_object().bucket("bkt").key("absent").send().await.unwrap();
    rig.handle.delete("bkt", "absent");
    rig.get("k").send().await.unwrap();
    rig.handle.throttle(1);
    assert_eq!(rig.raw("PUT /bkt/k", &[], b"throttled").await.status(), 503);
    let copy = rig.signed.copy_object().bucket("bkt").key("copy").copy_source("bkt/k");
    copy.copy_source_if_match("\"other\"").send().await.unwrap_err();
    assert_eq!(rig.log(), there);

    // One change for each key that is removed.
    rig.put("l").if_match(HELLO).send().await.unwrap_err();
    rig.put("l").send().await.unwrap();
    let keys = ["k", "absent", "l"].map(|key| ObjectIdentifier::builder().key(key).build());
    let keys = keys.into_iter().map(Result::unwrap).collect();
    let delete = Delete::builder().set_objects(Some(keys)).build().unwrap();
    rig.signed.delete_objects().bucket("bkt").delete(delete).send().await.unwrap();
    let removed: Vec<_> = rig.log()[2..].iter().map(|mutation| mutation.effects.clone()).collect();
    let effect = |key: &str| vec![Effect::Removed { key: key.into() }];
    assert_eq!(removed, [effect("k"), effect("l")]);
    assert_eq!(replay(&rig.log()), Contents::default());
}
