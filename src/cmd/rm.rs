//! `expirefs rm`: deletes live objects, each only if it is still the one that was found.

use std::process::ExitCode;

use super::object::{Buckets, Done, Outcomes, replaced};
use super::{Failed, on_runtime};
use crate::config::Query;
use crate::config::args::RmArgs;
use crate::error::{Error, Result};
use crate::pending::Writer;
use crate::store::write::NewObjects;

pub fn run(args: RmArgs) -> std::result::Result<ExitCode, Failed> {
    let RmArgs { urls, output, object } = args;
    let queries = urls.iter().map(|url| Query::of_object(url, object.clone()));
    let queries = queries.collect::<std::result::Result<Vec<Query>, _>>().map_err(Failed::Usage)?;
    let done = on_runtime(1, async {
        let (mut outcomes, mut buckets) = (Outcomes::default(), Buckets::default());
        for (url, query) in urls.iter().zip(&queries) {
            let writer = buckets.writer(query, &NewObjects::default()).await?;
            outcomes.add(output, url, delete(&writer, url, &query.key).await)?;
        }
        Ok(outcomes.status())
    });
    Ok(done?)
}

async fn delete<'a>(writer: &Writer, url: &'a str, key: &str) -> Result<Done<'a>> {
    let object = writer.live(key).await?.ok_or(Error::NotFound)?;
    writer.delete(&object.version).await.map_err(replaced)?;
    Ok(Done { expires: None, ..Done::of(url, "deleted", &object, &writer.bucket) })
}
