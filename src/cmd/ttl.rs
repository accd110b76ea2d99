//! `expirefs ttl`: files of a mount, or objects, live for so long from now on.

use std::path::Path;
use std::process::ExitCode;

use super::object::{At, Done, Form, Outcomes};
use super::on_runtime;
use crate::config::Query;
use crate::config::args::TtlArgs;
use crate::daemon::client;
use crate::error::{Error, Result};
use crate::expiry::{self, Ttl, rfc3339};
use crate::pending::Writer;
use crate::store::Object;
use crate::xattr::{EXPIRES, TTL};

pub fn run(args: TtlArgs) -> std::result::Result<ExitCode, String> {
    let TtlArgs { paths, ttl, json, output, object } = args;
    let form = Form { json, quiet: output.quiet };
    let queries = paths.iter().map(|path| match path.starts_with("s3://") {
        true => Query::of_object(path, object.clone()).map(Some),
        false => Ok(None),
    });
    let queries: Vec<Option<Query>> = queries.collect::<std::result::Result<_, _>>()?;
    // Other file systems take the attribute too, and nothing would come of it.
    for (path, _) in paths.iter().zip(&queries).filter(|(_, query)| query.is_none()) {
        client::path_in_mount(Path::new(path))?;
    }
    on_runtime(1, async {
        let mut outcomes = Outcomes::default();
        for (path, query) in paths.iter().zip(&queries) {
            let stamped = match query {
                None => stamp_file(path, ttl).map(|expires| Done {
                    path,
                    done: "stamped",
                    size: None,
                    etag: None,
                    expires,
                }),
                Some(query) => {
                    let writer = At::new(query).await?.changer();
                    let stamped = stamp(&writer, &query.key, ttl).await;
                    stamped.map(|object| {
                        let expires = object.headers.expires.as_deref();
                        let at = expires
                            .and_then(|text| expiry::http_date(text, writer.bucket.clock.now()));
                        Done::to(path, "stamped", &object, at.map(rfc3339))
                    })
                }
            };
            if let Ok(done) = &stamped {
                let _: crate::output::Reader = form.show(done)?;
            }
            outcomes.note(path, stamped.map(|_| ()));
        }
        Ok(outcomes.status())
    })
}

/// Rule W10: a copy of the object onto itself that requires its ETag.
async fn stamp(writer: &Writer, key: &str, ttl: Ttl) -> Result<Object> {
    let object = writer.live(key).await?.ok_or(Error::NotFound)?;
    writer.restamp(&object, expiry::expires(ttl, writer.bucket.clock.now())).await
}

/// Through the mount that the file lies in. Returns its new expiry.
fn stamp_file(path: &str, ttl: Ttl) -> Result<Option<String>> {
    let text = match ttl {
        Ttl::For(ttl) => humantime::format_duration(ttl).to_string(),
        Ttl::Never => "never".to_owned(),
    };
    let failed = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound,
        Some(libc::EROFS) => Error::ReadOnly,
        _ => Error::Refused(error.to_string()),
    };
    xattr::set(path, TTL, text.as_bytes()).map_err(failed)?;
    let expires = xattr::get(path, EXPIRES).map_err(failed)?;
    Ok(expires.and_then(|bytes| String::from_utf8(bytes).ok()))
}
