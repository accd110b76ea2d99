//! The checksum in the response to a HEAD.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumType;

use crate::store::{Algorithm, Checksum};

/// That of the whole object; `None` if the store has none, or only one of the checksums of parts
/// (Amazon S3 user guide, "Checking object integrity"), or one that cannot be computed here.
pub fn of_whole_object(out: &HeadObjectOutput) -> Option<Checksum> {
    if out.checksum_type() == Some(&ChecksumType::Composite) {
        return None;
    }
    // The fastest first. An object may have several.
    let sent = [
        (Algorithm::Crc64Nvme, 8, out.checksum_crc64_nvme()),
        (Algorithm::Crc32c, 4, out.checksum_crc32_c()),
        (Algorithm::Crc32, 4, out.checksum_crc32()),
        (Algorithm::Sha1, 20, out.checksum_sha1()),
        (Algorithm::Sha256, 32, out.checksum_sha256()),
    ];
    sent.into_iter().find_map(|(algorithm, length, text)| {
        // Without a type, a composite one is known by its number of parts, `…-5`, which is no
        // base64.
        let value = aws_smithy_types::base64::decode(text?).ok()?;
        (value.len() == length).then_some(Checksum { algorithm, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checksums_of_whole_objects_count() {
        let head = HeadObjectOutput::builder;
        assert_eq!(of_whole_object(&head().build()), None);
        let crc = head().checksum_crc32("y/Q5Jg==");
        let expected =
            Checksum { algorithm: Algorithm::Crc32, value: vec![0xcb, 0xf4, 0x39, 0x26] };
        assert_eq!(of_whole_object(&crc.clone().build()), Some(expected));
        let composite = crc.checksum_type(ChecksumType::Composite);
        assert_eq!(of_whole_object(&composite.build()), None);
        for unusable in ["y/Q5Jg==-5", "y/Q5", "?", ""] {
            let crc = head().checksum_crc32(unusable).build();
            assert_eq!(of_whole_object(&crc), None, "{unusable}");
        }
    }
}
