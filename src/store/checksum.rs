//! Checksums of whole objects, as a store keeps them.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// S3 API reference, HeadObject, `x-amz-checksum-…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// What the store has computed when the object was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: Algorithm,
    /// As bytes, the most significant one first.
    pub value: Vec<u8>,
}

/// The checksum of the bytes so far.
pub struct Sum {
    expected: Checksum,
    state: State,
}

enum State {
    Crc32(crc_fast::Digest),
    Crc64(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Checksum {
    /// To be told all bytes of the object, in order.
    pub fn verify(self) -> Sum {
        let crc = crc_fast::Digest::new;
        let state = match self.algorithm {
            Algorithm::Crc32 => State::Crc32(crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc)),
            Algorithm::Crc32c => State::Crc32(crc(crc_fast::CrcAlgorithm::Crc32Iscsi)),
            Algorithm::Crc64Nvme => State::Crc64(crc(crc_fast::CrcAlgorithm::Crc64Nvme)),
            Algorithm::Sha1 => State::Sha1(Sha1::new()),
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
        };
        Sum { expected: self, state }
    }
}

impl Sum {
    pub fn add(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc32(crc) | State::Crc64(crc) => crc.update(bytes),
            State::Sha1(sha) => sha.update(bytes),
            State::Sha256(sha) => sha.update(bytes),
        }
    }

    /// # Errors
    /// `Protocol` if the bytes are not those of the object.
    pub fn end(self) -> Result<()> {
        let value = match self.state {
            State::Crc32(crc) => (crc.finalize() as u32).to_be_bytes().to_vec(),
            State::Crc64(crc) => crc.finalize().to_be_bytes().to_vec(),
            State::Sha1(sha) => sha.finalize().to_vec(),
            State::Sha256(sha) => sha.finalize().to_vec(),
        };
        let got = Checksum { algorithm: self.expected.algorithm, value };
        match got == self.expected {
            true => Ok(()),
            false => Err(Error::Protocol(
                format!(
                    "the bytes received have the checksum {got}, and the object has {}",
                    self.expected
                )
                .into(),
            )),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.algorithm {
            Algorithm::Crc32 => "CRC32 ",
            Algorithm::Crc32c => "CRC32C ",
            Algorithm::Crc64Nvme => "CRC64NVME ",
            Algorithm::Sha1 => "SHA1 ",
            Algorithm::Sha256 => "SHA256 ",
        })?;
        self.value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of CRC algorithms (for "123456789"), and those of
    /// sha1sum(1) and sha256sum(1).
    #[test]
    fn each_algorithm_accepts_the_bytes_of_the_object_and_no_others() {
        for (algorithm, value) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            let bytes = |i: usize| u8::from_str_radix(&value[i..i + 2], 16).unwrap();
            let value: Vec<u8> = (0..value.len()).step_by(2).map(bytes).collect();
            let checksum = Checksum { algorithm, value };
            let verified = |pieces: &[&[u8]]| {
                let mut sum = checksum.clone().verify();
                pieces.iter().for_each(|piece| sum.add(piece));
                sum.end()
            };
            assert_eq!(verified(&[b"123456789"]), Ok(()), "{algorithm:?}");
            assert_eq!(verified(&[b"1234", b"", b"56789"]), Ok(()), "{algorithm:?}");
            let wrong = verified(&[b"123456788"]).unwrap_err().to_string();
            assert!(wrong.contains(&checksum.to_string()), "{wrong}");
        }
    }
}
