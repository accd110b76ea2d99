//! docs/METRICS.md, and what refers to metrics: alert rules and a dashboard.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use expirefs::daemon::status::{Family, Status, WritingStatus};
use expirefs::metrics::{ByKind, TimedCounts};

use super::MARK;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All metrics of a mount in which everything happened once.
fn all() -> Vec<Family> {
    let once = || {
        let results = [("ok".to_owned(), 1)].into();
        ByKind::from([("open".to_owned(), TimedCounts { results, took: Default::default() })])
    };
    let writing = Some(WritingStatus::default());
    Status { operations: once(), answers: once(), writing, ..Status::default() }.metrics()
}

#[test]
fn metrics_are_listed_with_type_and_labels() {
    let path = root().join("docs/METRICS.md");
    let page = fs::read_to_string(&path).expect("docs/METRICS.md");
    let (by_hand, _) = page.split_once(MARK).expect("the line below which it is made");
    let mut made =
        format!("{by_hand}{MARK}\n| metric | type | meaning | labels |\n|---|---|---|---|\n");
    for family in all() {
        let labels: Vec<_> = family.labels().iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (family.full_name(), family.kind(), family.help());
        let _ = writeln!(made, "| `{name}` | {kind} | {help} | {} |", labels.join(", "));
    }
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, made).expect("docs/METRICS.md is written");
    } else {
        assert!(page == made, "docs/METRICS.md is outdated; set UPDATE_DOCS=1");
    }
}

#[test]
fn each_metric_has_a_name_and_a_help_of_its_own() {
    let (mut names, mut helps) = (BTreeSet::new(), BTreeSet::new());
    for family in all() {
        let name = family.full_name();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert!(!family.help().is_empty() && !family.help().ends_with('.'), "{name}");
        assert!(helps.insert(family.help()), "{name}: {}", family.help());
        assert!(!family.labels().contains(&"key"), "{name}");
        assert!(names.insert(name.clone()), "{name}");
    }
}

/// The names of series that can be queried.
fn series() -> BTreeSet<String> {
    let names = all().into_iter().flat_map(|family| match family.kind() {
        "histogram" => ["_bucket", "_sum", "_count"].map(|end| family.full_name() + end).to_vec(),
        _ => vec![family.full_name()],
    });
    names.collect()
}

#[test]
fn rules_and_dashboard_name_metrics_that_exist() {
    let series = series();
    for file in ["expirefs.rules.yml", "expirefs.rules.test.yml", "expirefs.dashboard.json"] {
        let text = fs::read_to_string(root().join("scripts/package/monitoring").join(file));
        let text = text.expect(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("expirefs_")).collect();
        assert!(named.len() > 5, "{file}: {named:?}");
        let unknown: Vec<_> = named.into_iter().filter(|name| !series.contains(*name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard = root().join("scripts/package/monitoring/expirefs.dashboard.json");
    let dashboard = fs::read(dashboard).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.iter().all(|panel| !panel["targets"].as_array().expect("a query").is_empty()));
}

/// `promtool test rules`, in tests/mounted/metrics.rs, does not say if an alert has no test.
#[test]
fn each_alert_has_a_test_that_fires_it_and_one_that_does_not() {
    let monitoring = root().join("scripts/package/monitoring");
    let read = |name: &str| fs::read_to_string(monitoring.join(name)).expect(name);
    let (rules, tests) = (read("expirefs.rules.yml"), read("expirefs.rules.test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.split_once("alert: ")).collect();
    assert!(!alerts.is_empty());
    for (_, alert) in alerts {
        let of = format!("alertname: {alert}\n    exp_alerts:");
        let expected: Vec<_> = tests.split(&of).skip(1).map(|it| it.starts_with(" []")).collect();
        assert!(expected.contains(&true) && expected.contains(&false), "{alert}: {expected:?}");
    }
}
