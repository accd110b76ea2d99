//! `expirefs rm`: deletes live objects, each only if it is still the one that was found.

use std::process::ExitCode;

use super::object::{At, Done, Form, Outcomes};
use super::on_runtime;
use crate::config::Query;
use crate::config::args::RmArgs;
use crate::error::{Error, Result};
use crate::pending::Writer;
use crate::store::Object;

pub fn run(args: RmArgs) -> std::result::Result<ExitCode, String> {
    let RmArgs { urls, json, output, object } = args;
    let form = Form { json, quiet: output.quiet };
    let queries = urls.iter().map(|url| Query::of_object(url, object.clone()));
    let queries: Vec<Query> = queries.collect::<std::result::Result<_, _>>()?;
    on_runtime(1, async {
        let mut outcomes = Outcomes::default();
        for (url, query) in urls.iter().zip(&queries) {
            let at = At::new(query).await?;
            let deleted = delete(&at.changer(), &query.key).await;
            if let Ok(object) = &deleted {
                let _: crate::output::Reader =
                    form.show(&Done::to(url, "deleted", object, None))?;
            }
            outcomes.note(url, deleted.map(|_| ()));
        }
        Ok(outcomes.status())
    })
}

/// Returns what was deleted.
async fn delete(writer: &Writer, key: &str) -> Result<Object> {
    let object = writer.live(key).await?.ok_or(Error::NotFound)?;
    writer.delete(&object.version).await?;
    Ok(object)
}
