//! The configuration of writing: `--writable` and the options that need it.

use std::path::PathBuf;

use bytesize::ByteSize;

use super::absolute;
use super::args::{CopiedArgs, NewObjectArgs, WriteArgs};
use crate::expiry::{Touch, TtlRules};
use crate::glob::Globs;
use crate::store::write::{NewObjects, Sse};

/// How files are written.
#[derive(Clone, Debug)]
pub struct Writing {
    pub ttl: TtlRules,
    /// None: files are written in order only.
    pub spool: Option<SpoolPlace>,
    /// The directory of the list of unfinished uploads: in the spool's directory, if there is one.
    pub journal: PathBuf,
    pub touch: Touch,
    /// Changes of attributes that are not kept are refused.
    pub strict_attributes: bool,
    /// A closed file with such a path is uploaded when it is renamed.
    pub stage: Globs,
    /// Bytes of a part of a multipart upload, and the largest file that is one PutObject.
    pub part_size: u64,
    /// Of what is written; copies keep that of their source. None: STANDARD.
    pub storage_class: Option<String>,
    pub new_objects: NewObjects,
    pub content_type_by_name: bool,
}

/// Where pending files larger than a part are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolPlace {
    pub dir: PathBuf,
    /// Maximum bytes of all of them together.
    pub size: u64,
}

/// The default directory of the spool and of the list of unfinished uploads.
pub const SPOOL: &str = "/var/tmp";
const SPOOL_SIZE: ByteSize = ByteSize::gib(10);
/// The default size of a part.
pub const PART: ByteSize = ByteSize::mib(8);

impl Writing {
    /// `None` for a read-only mount.
    ///
    /// # Errors
    /// What is wrong with the arguments taken together, in one line.
    pub fn new(args: WriteArgs, buffer_memory: ByteSize) -> Result<Option<Writing>, String> {
        if !args.writable {
            return match first_of(&args) {
                Some(option) => Err(format!("{option} needs --writable")),
                None => Ok(None),
            };
        }
        let Some(ttl) = args.ttl else {
            return Err(
                "--writable needs --ttl D, the lifetime of written files, or --ttl never, for \
                        files without an expiry"
                    .to_owned(),
            );
        };
        let part = args.part_size.unwrap_or(PART);
        if part > buffer_memory {
            return Err(format!(
                "--part-size {part} is more than --buffer-memory {buffer_memory}, which buffers \
                 the parts"
            ));
        }
        let size = args.spool_size.unwrap_or(SPOOL_SIZE);
        if size < part && !args.no_spool {
            return Err(format!("--spool-size {size} is less than a part, {part} (--part-size)"));
        }
        let dir = absolute(args.spool.unwrap_or_else(|| SPOOL.into()))?;
        let place = SpoolPlace { dir: dir.clone(), size: size.as_u64() };
        Ok(Some(Writing {
            ttl: TtlRules::new(args.ttl_rules, ttl),
            spool: (!args.no_spool).then_some(place),
            journal: dir,
            touch: args.touch.unwrap_or_default(),
            strict_attributes: args.strict_attributes,
            stage: Globs::new(args.stage),
            part_size: part.as_u64(),
            new_objects: args.objects.copied.new_objects()?,
            content_type_by_name: !args.objects.no_content_type_by_name,
            storage_class: args.objects.storage_class,
        }))
    }
}

impl CopiedArgs {
    /// # Errors
    /// What is wrong with the arguments taken together, in one line.
    pub fn new_objects(&self) -> Result<NewObjects, String> {
        if self.sse_kms_key_id.is_some() && !matches!(self.sse, Some(Sse::Kms | Sse::KmsDsse)) {
            return Err("--sse-kms-key-id needs --sse aws:kms or aws:kms:dsse".to_owned());
        }
        let (sse_kms_key_id, acl) = (self.sse_kms_key_id.clone(), self.acl.clone());
        Ok(NewObjects { sse: self.sse, sse_kms_key_id, acl })
    }
}

/// The first option given that needs --writable.
fn first_of(args: &WriteArgs) -> Option<&'static str> {
    // Destructured, so that no field is left out.
    let WriteArgs {
        writable: _,
        ttl,
        ttl_rules,
        spool,
        spool_size,
        no_spool,
        touch,
        strict_attributes,
        stage,
        part_size,
        objects,
    } = args;
    let NewObjectArgs {
        storage_class,
        copied: CopiedArgs { sse, sse_kms_key_id, acl },
        content_type_by_name,
        no_content_type_by_name,
    } = objects;
    let given = [
        ("--ttl", ttl.is_some()),
        ("--ttl-rule", !ttl_rules.is_empty()),
        ("--spool", spool.is_some()),
        ("--spool-size", spool_size.is_some()),
        ("--no-spool", *no_spool),
        ("--touch", touch.is_some()),
        ("--strict-attributes", *strict_attributes),
        ("--stage", !stage.is_empty()),
        ("--part-size", part_size.is_some()),
        ("--storage-class", storage_class.is_some()),
        ("--sse", sse.is_some()),
        ("--sse-kms-key-id", sse_kms_key_id.is_some()),
        ("--acl", acl.is_some()),
        ("--content-type-by-name", *content_type_by_name),
        ("--no-content-type-by-name", *no_content_type_by_name),
    ];
    given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::config::Config;
    use crate::config::args::{Cli, Command};
    use crate::expiry::Ttl;

    fn config(options: &[&str]) -> Result<Option<Writing>, String> {
        let typed = ["expirefs", "mount", "b", "/mnt"].iter().chain(options);
        let Command::Mount(args) = Cli::parse_from(typed).command else { unreachable!() };
        Config::new(*args).map(|config| config.writing)
    }

    fn writing(options: &[&str]) -> Result<Writing, String> {
        config(&[&["--writable"], options].concat()).map(|writing| writing.expect("--writable"))
    }

    #[test]
    fn options_for_writing_need_writable() {
        let table = [
            &["--ttl", "1h"][..],
            &["--ttl", "never"],
            &["--ttl-rule", "*=1h"],
            &["--spool", "/tmp"],
            &["--spool-size", "1GiB"],
            &["--no-spool"],
            &["--touch", "ignore"],
            &["--strict-attributes"],
            &["--stage", "*.tmp"],
            &["--part-size", "8MiB"],
            &["--storage-class", "STANDARD_IA"],
            &["--sse", "AES256"],
            &["--sse-kms-key-id", "alias/a"],
            &["--acl", "private"],
            &["--content-type-by-name"],
            &["--no-content-type-by-name"],
        ];
        for options in table {
            let says = config(options).unwrap_err();
            assert_eq!(says, format!("{} needs --writable", options[0]));
        }
        assert!(config(&[]).unwrap().is_none());
    }

    #[test]
    fn writable_needs_a_ttl() {
        let says = writing(&["--ttl-rule", "*=1h"]).unwrap_err();
        assert!(says.contains("--writable") && says.contains("--ttl never"), "{says}");
    }

    #[test]
    fn incompatible_options_are_refused_by_name() {
        let table = [
            (&["--part-size", "129MiB"][..], "--part-size", "--buffer-memory"),
            (&["--part-size", "9MiB", "--spool-size", "8MiB"], "--spool-size", "--part-size"),
            (&["--sse-kms-key-id", "a"], "--sse-kms-key-id", "--sse aws:kms"),
            (&["--sse-kms-key-id", "a", "--sse", "AES256"], "--sse-kms-key-id", "--sse aws:kms"),
        ];
        for (options, one, other) in table {
            let says = writing(&[&["--ttl", "1h"], options].concat()).unwrap_err();
            assert!(says.contains(one) && says.contains(other), "{says}");
        }
    }

    #[test]
    fn options_have_defaults() {
        let got = writing(&["--ttl", "1h"]).unwrap();
        let place = SpoolPlace { dir: "/var/tmp".into(), size: 10 << 30 };
        assert_eq!(got.spool, Some(place));
        assert_eq!((got.part_size, got.touch), (8 << 20, Touch::Ignore));
        assert_eq!((got.strict_attributes, got.content_type_by_name), (false, true));
        assert_eq!((got.storage_class, got.new_objects), (None, NewObjects::default()));
        assert!(!got.stage.matches("a.tmp"));
        assert_eq!(got.ttl.ttl("a"), Ttl::For(Duration::from_secs(3600)));
    }

    #[test]
    fn given_options_override_defaults() {
        #[rustfmt::skip]
        let got = writing(&[
            "--ttl", "never", "--ttl-rule", "a=b=1m", "--ttl-rule", "*.log=never", "--ttl-rule",
            "*.log=1h", "--spool", "/s", "--spool-size", "64MiB", "--touch", "renew",
            "--strict-attributes", "--stage", "*.tmp", "--stage", "new/**", "--part-size", "16MiB",
            "--storage-class", "STANDARD_IA", "--sse", "aws:kms:dsse", "--sse-kms-key-id",
            "arn:aws:kms:eu-west-1:1:key/2", "--acl", "bucket-owner-full-control",
            "--no-content-type-by-name",
        ])
        .unwrap();
        let minute = Ttl::For(Duration::from_secs(60));
        for (path, ttl) in [("a=b", minute), ("d/a.log", Ttl::Never), ("a", Ttl::Never)] {
            assert_eq!(got.ttl.ttl(path), ttl, "{path}");
        }
        assert_eq!(got.spool, Some(SpoolPlace { dir: "/s".into(), size: 64 << 20 }));
        assert_eq!((got.touch, got.part_size), (Touch::Renew, 16 << 20));
        assert!(got.strict_attributes && !got.content_type_by_name);
        assert!(got.stage.matches("d/a.tmp") && got.stage.matches("new/a"));
        assert_eq!(got.storage_class.as_deref(), Some("STANDARD_IA"));
        let new_objects = NewObjects {
            sse: Some(Sse::KmsDsse),
            sse_kms_key_id: Some("arn:aws:kms:eu-west-1:1:key/2".to_owned()),
            acl: Some("bucket-owner-full-control".to_owned()),
        };
        assert_eq!(got.new_objects, new_objects);
        // The last of the two counts, as in options that are added to those of a file.
        let by_name = ["--no-content-type-by-name", "--content-type-by-name", "--ttl", "1h"];
        assert!(writing(&by_name).unwrap().content_type_by_name);
        let without = writing(&["--ttl", "1h", "--no-spool"]).unwrap();
        assert_eq!((without.spool, without.journal), (None, "/var/tmp".into()));
    }
}
