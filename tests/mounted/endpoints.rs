//! The endpoint, as for the AWS CLI: from options, environment and profile; over TLS; and the
//! errors if it cannot be reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::tls::{Tls, ToPlain};

/// A configuration file of the AWS CLI.
fn aws_config(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    fs::write(&path, text).expect("a file");
    (folder, path)
}

/// The mount is refused with one line that contains all of `names`.
#[track_caller]
fn assert_refused(setup: &Setup, names: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let output = setup.refused_on(folder.path());
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for name in names {
        assert!(said.contains(name), "no {name:?} in: {said}");
    }
    said
}

#[track_caller]
fn assert_works(mount: &Mount) {
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "x");
}

/// As for the AWS CLI: AWS_CA_BUNDLE, and ca_bundle of the profile.
#[test]
fn a_private_authority_is_trusted_by_its_bundle() {
    let server = Embedded::with_a_file();
    let tls = Tls::before(server.port(), ToPlain::Alert);
    let url = format!("https://localhost:{}", tls.port);
    let place = format!("localhost:{}", tls.port);
    assert_refused(&Setup::embedded_at(&url), &[&place, "--ca-bundle"]);
    let bundle = tls.authority();
    let bundle = bundle.to_str().expect("a path in UTF-8");
    assert_works(&Setup::embedded_at(&url).env("AWS_CA_BUNDLE", bundle).start());
    let (_folder, config) = aws_config(&format!("[profile p]\nca_bundle = {bundle}\n"));
    let config = config.to_str().expect("a path in UTF-8");
    assert_works(
        &Setup::embedded_at(&url).env("AWS_CONFIG_FILE", config).with("--profile p").start(),
    );
    let absent = Setup::embedded_at(&url).env("AWS_CA_BUNDLE", "/no/such/bundle.pem");
    assert_refused(&absent, &["/no/such/bundle.pem", "AWS_CA_BUNDLE"]);
}

/// Addressing style, messages and the index use the endpoint wherever it is set.
#[test]
fn an_endpoint_is_taken_from_environment_or_profile() {
    let server = Embedded::with_a_file();
    let url = &server.endpoint().url;
    let services = format!(
        "[profile p]\nservices = s\nregion = eu-west-3\n[services s]\ns3 =\n  endpoint_url = {url}\n"
    );
    let (folder, config) = aws_config(&services);
    let config = config.to_str().expect("a path in UTF-8");
    let plain = Setup::anywhere(Embedded::BUCKET).with("--no-sign-request");
    let by_profile = plain.clone().env("AWS_CONFIG_FILE", config).with("--profile p");
    assert_works(&by_profile.start());
    for variable in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        assert_works(&plain.clone().env(variable, url).start());
    }
    // Two endpoints need two indexes: that of another endpoint is set aside.
    let index = folder.path().join("index");
    let with_index = format!("--index {}", index.display());
    assert_works(&by_profile.clone().with(&with_index).start());
    let aside = |of: &Path| fs::read_dir(of).expect("ls").count();
    let before = aside(folder.path());
    assert_works(&plain.clone().env("AWS_ENDPOINT_URL", url).with(&with_index).start());
    assert_eq!(aside(folder.path()), before, "the index belongs to this endpoint");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", free.local_addr().expect("its address"));
    drop(free);
    assert_refused(&plain.env("AWS_ENDPOINT_URL", &nobody), &[&nobody, "refused"]);
}

#[test]
fn the_error_for_an_unreachable_store_says_what_to_try() {
    let server = Embedded::with_a_file();
    let plain = server.port();
    let says = format!("try http://127.0.0.1:{plain}");
    assert_refused(&Setup::embedded_at(&format!("https://127.0.0.1:{plain}")), &[&says]);
    for to_plain in [ToPlain::Alert, ToPlain::BadRequest] {
        let tls = Tls::before(plain, to_plain);
        let says = format!("try https://127.0.0.1:{}", tls.port);
        assert_refused(&Setup::embedded_at(&format!("http://127.0.0.1:{}", tls.port)), &[&says]);
    }
    let nginx = Tls::before(plain, ToPlain::Nginx);
    let says = "give the endpoint as https://";
    assert_refused(&Setup::embedded_at(&format!("http://127.0.0.1:{}", nginx.port)), &[says]);
    assert_refused(
        &Setup::embedded_at("http://no-such-host.invalid:9000"),
        &["no-such-host.invalid:9000", "dns"],
    );
}

/// M4: a password in a URL appears in no output, wherever the URL comes from, even at the most
/// verbose level.
#[test]
fn a_password_in_a_url_is_refused_and_shown_nowhere() {
    const URL: &str = "http://user:secret-word@127.0.0.1:9";
    let (_folder, config) = aws_config(&format!("[default]\nendpoint_url = {URL}\n"));
    let plain = || Setup::anywhere(Embedded::BUCKET).with("--no-sign-request --log trace");
    let setups = [
        Setup::embedded_at(URL).with("--log trace"),
        plain().env("AWS_ENDPOINT_URL", URL),
        plain().env("AWS_ENDPOINT_URL_S3", URL),
        plain().env("AWS_CONFIG_FILE", config.to_str().expect("a path in UTF-8")),
    ];
    for setup in setups {
        let folder = tempfile::tempdir().expect("a folder");
        let output = setup.refused_on(folder.path());
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("password") && !said.contains("secret-word"), "{said}");
    }
    let mut help = Command::new(env!("CARGO_BIN_EXE_expirefs"));
    let help = help.args(["mount", "--help"]).env("AWS_ENDPOINT_URL_S3", URL).stdin(Stdio::null());
    let help = help.output().expect("it runs").stdout;
    assert!(!String::from_utf8(help).expect("text").contains("secret-word"));
}
