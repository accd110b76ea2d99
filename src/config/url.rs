//! Names of buckets and of what is in them: `BUCKET/KEY`, `s3://BUCKET/KEY`, and the same with the ARN
//! of an access point in place of the bucket.

use crate::name::Prefix;

/// # Errors
/// If it names no bucket, or nothing that can be mounted, in words for the operator.
pub fn bucket_and_prefix(text: &str) -> Result<(String, Prefix), String> {
    let (bucket, prefix) = bucket_and_key(text)?;
    let prefix = Prefix::new(prefix);
    match prefix.defect() {
        None => Ok((bucket.to_owned(), prefix)),
        Some(defect) => Err(format!("{text:?} cannot be mounted: its prefix has {defect}")),
    }
}

/// # Errors
/// If it names no bucket, in words for the operator.
pub fn bucket_and_key(text: &str) -> Result<(&str, &str), String> {
    let path = text.strip_prefix("s3://").unwrap_or(text);
    let (bucket, key) = match path.starts_with("arn:") {
        true => arn_and_key(path),
        false => Some(path.split_once('/').unwrap_or((path, ""))).filter(|(bucket, _)| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !bucket.is_empty() && bucket.chars().all(legal)
        }),
    }
    .ok_or_else(|| {
        format!(
            "{text:?} names no bucket: expected BUCKET, BUCKET/PREFIX or s3://BUCKET/PREFIX, where \
             BUCKET may be the ARN of an access point"
        )
    })?;
    match bucket.ends_with(".mrap") {
        true => Err(format!(
            "{text:?} is a multi-region access point, which needs signatures (SigV4A) that expirefs \
             does not make: use the access point of a region"
        )),
        false => Ok((bucket, key)),
    }
}

/// `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME[/KEY]`, and `arn:PARTITION:s3-outposts:REGION:
/// ACCOUNT:outpost/ID/accesspoint/NAME[/KEY]` (S3 User Guide, "Using Amazon S3 access points").
/// Either separator may be a colon.
fn arn_and_key(path: &str) -> Option<(&str, &str)> {
    let mut fields = path.splitn(6, ':');
    let (service, resource) = (fields.nth(2)?, fields.nth(2)?);
    let parts = match service {
        "s3" | "s3-object-lambda" => 2,
        "s3-outposts" => 4,
        _ => return None,
    };
    let kinds: &[&str] = if parts == 2 { &["accesspoint"] } else { &["outpost", "accesspoint"] };
    let mut rest = resource;
    for kind in kinds {
        rest = rest.strip_prefix(kind)?.strip_prefix([':', '/'])?;
        let end = rest.find([':', '/']).unwrap_or(rest.len());
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if end == 0 || !rest[..end].chars().all(legal) {
            return None;
        }
        let is_last = *kind == "accesspoint";
        if is_last {
            let arn = &path[..path.len() - rest.len() + end];
            let key = &rest[end..];
            return match key.strip_prefix('/') {
                Some(key) => Some((arn, key)),
                None => key.is_empty().then_some((arn, "")),
            };
        }
        rest = rest[end..].strip_prefix([':', '/'])?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_of_an_access_point_is_a_bucket() {
        let point = "arn:aws:s3:us-east-1:123456789012:accesspoint/name";
        let outpost = "arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-1/accesspoint/name";
        for arn in [point, outpost, "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint:name"] {
            for scheme in ["", "s3://"] {
                let typed = format!("{scheme}{arn}");
                assert_eq!(bucket_and_key(&typed), Ok((arn, "")));
                assert_eq!(bucket_and_key(&format!("{typed}/")), Ok((arn, "")));
                assert_eq!(bucket_and_key(&format!("{typed}/a/b:c")), Ok((arn, "a/b:c")));
            }
        }
        for wrong in [
            "arn:aws:s3:::bucket/key",
            "arn:aws:s3:us-east-1:1:accesspoint/",
            "arn:aws:s3:us-east-1:1:accesspoint//key",
            "arn:aws:s3:us-east-1:1:accesspoint/a b",
            "arn:aws:s3:us-east-1:1:accesspoint/name:key",
            "arn:aws:s3-outposts:us-east-1:1:outpost/op-1",
            "arn:aws:iam::1:role/r",
            "arn:",
        ] {
            assert!(bucket_and_key(wrong).unwrap_err().contains("names no bucket"), "{wrong}");
        }
        let region = "arn:aws:s3::123456789012:accesspoint:abc.mrap/x";
        assert!(bucket_and_key(region).unwrap_err().contains("multi-region"));
    }

    #[test]
    fn buckets_and_prefixes() {
        let parts = |text: &str| bucket_and_prefix(text).map(|(b, p)| (b, p.as_str().to_owned()));
        let right = |b: &str, p: &str| Ok((b.to_owned(), p.to_owned()));
        assert_eq!(parts("b"), right("b", ""));
        assert_eq!(parts("b/"), right("b", ""));
        assert_eq!(parts("b/a/c"), right("b", "a/c/"));
        assert_eq!(parts("s3://b/a/"), right("b", "a/"));
        for wrong in ["b//", "b//a", "b/a//c", "b/../c", "b/.", "s3://b/a/..", "b/a\0"] {
            assert!(parts(wrong).unwrap_err().contains("prefix"), "{wrong:?}");
        }
        let long = |n| format!("b/{}", "x".repeat(n));
        assert!(parts(&long(255)).is_ok() && parts(&long(256)).unwrap_err().contains("255"));
        let deep = format!("b/{}", "abcdefg/".repeat(128));
        assert!(parts(&deep).is_ok() && parts(&format!("{deep}x")).unwrap_err().contains("1024"));
        for wrong in ["", "/x", "s3://", "s3:///x", "http://b/x", "b c"] {
            assert!(parts(wrong).unwrap_err().contains(wrong), "{wrong:?}");
        }
    }
}
