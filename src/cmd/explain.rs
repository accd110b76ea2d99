//! `expirefs explain`: a name in a mount is explained by its daemon, an `s3://BUCKET/KEY` by
//! requests to the store.

use std::path::Path;
use std::process::ExitCode;

use super::{Failed, bucket, on_runtime};
use crate::bucket::explain::{Explanation, explain};
use crate::config::Query;
use crate::config::args::{ExplainArgs, OutputArgs};
use crate::daemon::client::{self, Failure};
use crate::output::{Reader, print, print_json};

pub fn run(args: ExplainArgs) -> Result<ExitCode, Failed> {
    let path = &args.path;
    let explanation = match path.starts_with("s3://") {
        true => {
            let query = Query::new(path, args.object).map_err(Failed::Usage)?;
            on_runtime(1, explain_object(query))?
        }
        false => {
            let (mount, below) = client::path_in_mount(Path::new(path))?;
            on_runtime(1, async {
                client::explain(&mount, below).await.map_err(|failure| match failure {
                    Failure::Refused(why) => format!("{path}: {why}"),
                    Failure::Unanswered(why) => why,
                })
            })?
        }
    };
    let _: Reader = match args.output {
        OutputArgs { quiet: true, .. } => Reader::There,
        OutputArgs { json: true, .. } => {
            print_json(&serde_json::to_string(&explanation).map_err(|e| e.to_string())?)?
        }
        OutputArgs { .. } => print(&explanation.to_string())?,
    };
    Ok(ExitCode::from(explanation.exit_status()))
}

async fn explain_object(query: Query) -> Result<Explanation, String> {
    let asked = bucket(&query).await?;
    let bucket = &query.endpoint.bucket;
    let explanation = explain(&asked, bucket, &query.key).await;
    explanation.map_err(|e| format!("s3://{bucket}/{}: {e}", query.key))
}
