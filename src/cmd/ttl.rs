//! `expirefs ttl`: files of a mount, or objects, live for so long from now on.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::object::{Buckets, Done, Outcomes, replaced};
use super::{Failed, on_runtime};
use crate::config::Query;
use crate::config::args::TtlArgs;
use crate::daemon::client;
use crate::error::{Error, Result};
use crate::expiry::{self, Ttl};
use crate::pending::Writer;
use crate::xattr::{EXPIRES, TTL};

pub fn run(args: TtlArgs) -> std::result::Result<ExitCode, Failed> {
    let TtlArgs { paths, ttl, output, copied, object } = args;
    let copied = copied.new_objects().map_err(Failed::Usage)?;
    let queries = paths.iter().map(|path| match path.starts_with("s3://") {
        true => Query::of_object(path, object.clone()).map(Some).map_err(Failed::Usage),
        // Other file systems take the attribute too, and nothing would come of it.
        false => Ok(client::path_in_mount(Path::new(path)).map(|_| None)?),
    });
    let queries: Vec<Option<Query>> = queries.collect::<std::result::Result<_, _>>()?;
    let done = on_runtime(1, async {
        let (mut outcomes, mut buckets) = (Outcomes::default(), Buckets::default());
        for (path, query) in paths.iter().zip(&queries) {
            let stamped = match query {
                None => stamp_file(path, ttl),
                Some(query) => {
                    let writer = buckets.writer(query, &copied).await?;
                    stamp(&writer, path, &query.key, ttl).await
                }
            };
            outcomes.add(output, path, stamped)?;
        }
        Ok(outcomes.status())
    });
    Ok(done?)
}

/// Rule W10: a copy of the object onto itself that requires its ETag.
async fn stamp<'a>(writer: &Writer, url: &'a str, key: &str, ttl: Ttl) -> Result<Done<'a>> {
    let object = writer.live(key).await?.ok_or(Error::NotFound)?;
    let expires = expiry::expires(ttl, writer.bucket.clock.now());
    let object = writer.restamp(&object, expires).await.map_err(replaced)?;
    Ok(Done::of(url, "stamped", &object, &writer.bucket))
}

/// Through the mount that the file lies in.
fn stamp_file(path: &str, ttl: Ttl) -> Result<Done<'_>> {
    let text = match ttl {
        Ttl::For(ttl) => humantime::format_duration(ttl).to_string(),
        Ttl::Never => "never".to_owned(),
    };
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound,
        Some(libc::EROFS) => Error::ReadOnly,
        _ => Error::Refused(error.to_string().into()),
    };
    xattr::set(path, TTL, text.as_bytes()).map_err(failed)?;
    let expires = xattr::get(path, EXPIRES).map_err(failed)?;
    let expires = expires.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(Done { path, done: "stamped", size: None, etag: None, expires })
}
