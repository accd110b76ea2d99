//! Which store honours which condition: measured with a condition that holds and one that does not.

use std::fmt;
use std::process::Command;
use std::time::Duration;
use std::{env, str};

use bytes::Bytes;
use expirefs::embedded::Personality;
use expirefs::error::{Error, Result};
use expirefs::s3::S3;
use expirefs::store::write::{
    Condition, CopyHeaders, CopyRequest, DeleteIf, NewHeaders, Tag, WriteStore,
};
use expirefs::store::{Store, Version};

use super::support::s3_server::{SCRIPT, given};
use super::{in_bucket_of, rig};

/// A change with a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    PutAbsent,
    PutIs,
    PutIsBare,
    CompleteAbsent,
    CompleteIs,
    CopySource,
    PartSource,
    CopyAbsent,
    CopyIs,
    DeleteIs,
    DeleteSize,
    DeleteModified,
    RenameSource,
    RenameAbsent,
    RenameIs,
}

use Case::*;

/// The measured stores: SeaweedFS 4.48, moto 5.2.1, the embedded server, and the embedded server as
/// Garage 2.5.0 and as Ceph RGW 16.2.15.
const STORES: [&str; 5] = ["seaweedfs", "moto", "embedded", "as garage", "as ceph"];

/// `y`: honoured. `n`: done although the condition does not hold. `never`: refused although it
/// holds. `as PUT`: the target becomes an empty object. `-`: refused as unknown.
#[rustfmt::skip]
const MEASURED: [(&str, Case, [&str; 5]); 15] = [
    ("PUT If-None-Match: *",           PutAbsent,      ["y", "y", "y", "n", "y"]),
    ("PUT If-Match",                   PutIs,          ["y", "y", "y", "n", "never"]),
    ("PUT If-Match without quotes",    PutIsBare,      ["y", "y", "y", "n", "y"]),
    ("Complete If-None-Match: *",      CompleteAbsent, ["y", "y", "y", "n", "n"]),
    ("Complete If-Match",              CompleteIs,     ["y", "n", "y", "n", "n"]),
    ("COPY source If-Match",           CopySource,     ["y", "n", "y", "y", "n"]),
    ("part copy source If-Match",      PartSource,     ["y", "n", "y", "y", "n"]),
    ("COPY target If-None-Match: *",   CopyAbsent,     ["y", "n", "y", "n", "n"]),
    ("COPY target If-Match",           CopyIs,         ["y", "n", "y", "n", "n"]),
    ("DELETE If-Match",                DeleteIs,       ["y", "y", "y", "n", "n"]),
    ("DELETE size",                    DeleteSize,     ["n", "n", "y", "n", "n"]),
    ("DELETE Last-Modified",           DeleteModified, ["n", "n", "y", "n", "n"]),
    ("RENAME source If-Match",         RenameSource,   ["y", "as PUT", "y", "as PUT", "as PUT"]),
    ("RENAME target If-None-Match: *", RenameAbsent,   ["y", "as PUT", "y", "as PUT", "as PUT"]),
    ("RENAME target If-Match",         RenameIs,       ["y", "as PUT", "y", "as PUT", "never"]),
];

/// Makes the change, with a condition that holds or one that does not: `k/target` (`old` or absent)
/// should become `new` or be deleted.
async fn attempt(store: &S3, case: Case, holds: bool) -> Result<()> {
    let (any, none) = (&Condition::Any, &NewHeaders::default());
    let new = Bytes::from("new");
    store.put("k/source", none, new.clone(), any).await.unwrap();
    let absent = matches!(case, PutAbsent | CompleteAbsent | CopyAbsent | RenameAbsent);
    match absent && holds {
        true => _ = store.delete("k/target", &DeleteIf::Any).await.unwrap(),
        false => _ = store.put("k/target", none, Bytes::from("old"), any).await.unwrap(),
    }
    let other = Tag::new("0123456789abcdef0123456789abcdef").unwrap();
    let wrong = |version: Version| Version { etag: other.as_str().into(), ..version };
    let source = store.head("k/source").await.unwrap().version;
    let source = match case {
        CopySource | PartSource | RenameSource if !holds => wrong(source),
        _ => source,
    };
    let on_target = match case {
        CopySource | PartSource | RenameSource => Condition::Any,
        _ if absent => Condition::Absent,
        _ if holds => Condition::Is(store.head("k/target").await?.version.tag().unwrap()),
        _ => Condition::Is(other.clone()),
    };
    match case {
        PutAbsent | PutIs => store.put("k/target", none, new, &on_target).await.map(|_| ()),
        PutIsBare => {
            store.with_bare_etags().put("k/target", none, new, &on_target).await.map(|_| ())
        }
        CompleteAbsent | CompleteIs | PartSource => {
            let upload = store.create_upload("k/target", none).await?.upload;
            let part = match case {
                PartSource => store.copy_part(&upload, 1, &source, 0..3).await,
                _ => store.upload_part(&upload, 1, new).await,
            };
            let done = match part {
                Ok(part) => store.complete(&upload, &[part], &on_target).await.map(|_| ()),
                Err(error) => Err(error),
            };
            store.abort(&upload).await?;
            done
        }
        CopySource | CopyAbsent | CopyIs => {
            let copy = CopyRequest {
                source: &source,
                key: "k/target",
                headers: CopyHeaders::All,
                storage_class: None,
                condition: &on_target,
            };
            store.copy(copy).await.map(|_| ())
        }
        DeleteIs | DeleteSize | DeleteModified => {
            let mut version = store.head("k/target").await?.version;
            match case {
                DeleteSize if !holds => version.size += 1,
                DeleteModified if !holds => version.last_modified -= Duration::from_secs(3600),
                _ => {}
            }
            let delete_if = match (case, on_target) {
                (DeleteIs, Condition::Is(tag)) => DeleteIf::Is(tag),
                _ => DeleteIf::Version(version),
            };
            store.delete("k/target", &delete_if).await.map(|_| ())
        }
        RenameSource | RenameAbsent | RenameIs => {
            store.rename(&source, "k/target", &on_target).await
        }
    }
}

/// The first bytes of `k/target`, if it exists.
async fn target(store: &S3) -> Option<Bytes> {
    store.probe("k/target", 10).await.ok().map(|(_, bytes)| bytes)
}

async fn measure(store: &S3, case: Case) -> &'static str {
    let done = attempt(store, case, true).await;
    let left = target(store).await;
    let of_delete = matches!(case, DeleteIs | DeleteSize | DeleteModified);
    let wanted = (!of_delete).then(|| Bytes::from("new"));
    let is_rename = matches!(case, RenameSource | RenameAbsent | RenameIs);
    match done {
        Ok(()) if is_rename && left == Some(Bytes::new()) => return "as PUT",
        Ok(()) => assert_eq!(left, wanted, "{case:?}"),
        Err(Error::PreconditionFailed | Error::NotFound) => return "never",
        Err(Error::Unsupported(_) | Error::Refused(_)) => return "-",
        Err(error) => panic!("{case:?}: {error}"),
    }
    match attempt(store, case, false).await {
        Ok(()) => "n",
        Err(Error::PreconditionFailed) => {
            assert_eq!(target(store).await, Some(Bytes::from("old")), "{case:?}");
            "y"
        }
        Err(error) => panic!("{case:?}: {error}"),
    }
}

async fn measured(store: &S3) -> Vec<String> {
    let mut column = Vec::new();
    for (_, case, _) in MEASURED {
        column.push(measure(store, case).await.to_owned());
    }
    column
}

/// The column of a server in another process: this test, run again inside of `scripts/s3-server
/// run`, prints it.
fn measured_of(server: &str) -> Vec<String> {
    let mut again = Command::new(SCRIPT);
    again.args(["--server", server, "run"]).arg(env::current_exe().expect("this program"));
    again.args([
        "conditions::stores_honour_the_conditions_measured_before",
        "--exact",
        "--nocapture",
    ]);
    let out = again.output().expect(SCRIPT);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let lines = text.lines().filter_map(|line| line.strip_prefix(PREFIX));
    lines.map(str::to_owned).collect()
}

const PREFIX: &str = "measured: ";

struct Table<'a>([&'a [String]; 5]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:32}", "")?;
        STORES.iter().try_for_each(|store| write!(f, "{store:11}"))?;
        for (row, (name, ..)) in MEASURED.iter().enumerate() {
            write!(f, "\n{name:32}")?;
            self.0.iter().try_for_each(|column| write!(f, "{:11}", column[row]))?;
        }
        writeln!(f)
    }
}

/// Each store behaves as measured: the test fails if one changes.
#[test]
fn stores_honour_the_conditions_measured_before() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(server) = given() {
        let store = in_bucket_of(&server, &runtime).0;
        let column = runtime.block_on(measured(&store));
        column.iter().for_each(|seen| println!("\n{PREFIX}{seen}"));
        return;
    }
    let [seaweedfs, moto] = ["seaweedfs", "moto"].map(measured_of);
    let [embedded, garage, ceph] =
        [Personality::S3, Personality::GARAGE, Personality::CEPH].map(|personality| {
            runtime.block_on(async {
                let (rig, _) = rig(Duration::from_secs(10)).await;
                rig.server.handle().behave_as(personality);
                measured(&rig.store).await
            })
        });
    let table = [&seaweedfs[..], &moto, &embedded, &garage, &ceph];
    println!("{}", Table(table));
    for (row, (name, _, expected)) in MEASURED.iter().enumerate() {
        assert_eq!(table.map(|column| &column[row][..]), *expected, "{name}");
    }
    // The embedded server, which tests rely on, honours them all.
    assert!(embedded.iter().all(|seen| seen == "y"), "{embedded:?}");
}
