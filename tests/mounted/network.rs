//! The network as companies have it: proxies, private authorities, endpoints of AWS, and the owner of
//! the bucket.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::forward::{Does, Forward};
use crate::support::mount::Setup;
use crate::support::nginx::Nginx;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tls::{Tls, ToPlain};
use crate::support::wait::within;

/// `user:secret-word` in Base64.
const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQtd29yZA==";

/// A command that hangs.
const HANGS: Duration = Duration::from_secs(60);

#[test]
fn plain_http_goes_by_the_proxy_as_absolute_urls_with_its_password() {
    let (server, proxy) = (Embedded::with_a_file(), Forward::start(Does::Forward));
    let url = &server.endpoint().url;
    let mount = Setup::embedded_at(url).with("--log trace").env("http_proxy", &proxy.url()).start();
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "x");
    let heads = proxy.heads();
    let list = format!("GET {url}/embedded");
    assert!(heads.iter().any(|head| head.starts_with(&list)), "{heads:#?}");
    for head in heads {
        assert!(head.contains(AUTHORIZATION), "{head}");
    }
    let said = mount.said().join("\n");
    assert!(!said.contains("secret-word") && !said.contains(AUTHORIZATION), "{said}");
}

#[test]
fn https_goes_through_the_proxy_and_its_password_does_not() {
    let (server, proxy) = (Embedded::with_a_file(), Forward::start(Does::Forward));
    let tls = Tls::before(server.port(), ToPlain::Alert);
    let url = format!("https://localhost:{}", tls.port);
    let bundle = format!("--ca-bundle {} --log trace", tls.authority().display());
    for variable in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        // --ca-bundle is stronger than the variable.
        let setup = Setup::embedded_at(&url).with(&bundle).env("AWS_CA_BUNDLE", "/no/such/file");
        let before = proxy.heads().len();
        let mount = setup.env(variable, &proxy.url()).start();
        assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "x");
        let heads = proxy.heads().split_off(before);
        assert!(!heads.is_empty(), "{variable}");
        for head in heads {
            assert!(head.starts_with(&format!("CONNECT localhost:{} ", tls.port)), "{head}");
            assert!(head.contains(AUTHORIZATION), "{head}");
        }
        let said = mount.said().join("\n");
        assert!(!said.contains("secret-word") && !said.contains(AUTHORIZATION), "{said}");
    }
}

/// nginx in front of the store, with a certificate of a private authority.
#[test]
fn a_large_file_is_read_over_tls_from_nginx_and_a_certificate_for_another_name_is_refused() {
    let server = Embedded::with_a_file();
    let whole = content(7, 64 * MIB);
    server.put("large", whole.clone());
    let certificates = Tls::before(server.port(), ToPlain::Alert);
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let [certificate, key] = certificates.certificate_and_key();
    let nginx = Nginx::start(
        "",
        &format!(
            "listen 127.0.0.1:{port} ssl; listen 127.0.0.2:{port} ssl;
             ssl_certificate {}; ssl_certificate_key {};
             location / {{
                proxy_pass {}; proxy_http_version 1.1; proxy_set_header Host $http_host;
             }}",
            certificate.display(),
            key.display(),
            server.endpoint().url,
        ),
    );
    let bundle = format!("--ca-bundle {}", certificates.authority().display());
    let mount = Setup::embedded_at(&format!("https://127.0.0.1:{port}")).with(&bundle).start();
    assert!(fs::read(mount.path("large")).expect("read") == whole);
    drop(mount);
    for (host, options, says) in [
        ("127.0.0.2", bundle.as_str(), "not valid for name"),
        ("127.0.0.1", "", "--ca-bundle"),
        ("127.0.0.1", "--ca-bundle /dev/null", "it holds none"),
        ("127.0.0.1", "--ca-bundle /no/such/file", "certificates in /no/such/file"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = Setup::embedded_at(&format!("https://{host}:{port}")).with(options);
        let said = String::from_utf8(setup.refused_on(folder.path()).stderr).expect("text");
        assert!(said.contains(says), "{host} {options}: no {says:?} in {said}");
    }
    nginx.stop();
}

#[test]
fn hosts_of_no_proxy_and_of_other_schemes_are_reached_directly() {
    let (server, proxy) = (Embedded::with_a_file(), Forward::start(Does::Close));
    let setups = [
        Setup::embedded_at(&server.endpoint().url)
            .env("http_proxy", &proxy.url())
            .env("NO_PROXY", "a.b,127.0.0.1"),
        Setup::embedded_at(&server.endpoint().url)
            .env("ALL_PROXY", &proxy.url())
            .env("no_proxy", "127.0.0.0/8"),
        Setup::embedded_at(&server.endpoint().url).env("HTTPS_PROXY", &proxy.url()),
        // A client of a CGI program can set this one.
        Setup::embedded_at(&server.endpoint().url).env("HTTP_PROXY", &proxy.url()),
    ];
    for setup in setups {
        let mount = setup.start();
        assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "x");
    }
    assert_eq!(proxy.requests(), [""; 0]);
}

#[test]
fn a_proxy_that_does_not_connect_is_named_without_its_password() {
    let server = Embedded::with_a_file();
    let tls = Tls::before(server.port(), ToPlain::Alert);
    let https = format!("https://localhost:{}", tls.port);
    let http = server.endpoint().url.clone();
    let cases = [
        (&https, Does::Answer("407 Proxy Authentication Required"), "proxy authorization required"),
        (&https, Does::Answer("502 Bad Gateway"), "tunnel"),
        (&https, Does::Hang, "none within"),
        (&https, Does::Close, "tunnel"),
        (&http, Does::Answer("407 Proxy Authentication Required"), "the proxy wants another"),
        (&http, Does::Answer("502 Bad Gateway"), "502"),
    ];
    for (url, does, says) in cases {
        let proxy = Forward::start(does);
        let bundle = format!("--ca-bundle {} --timeout 12s", tls.authority().display());
        let setup = Setup::embedded_at(url).with(&bundle).env("ALL_PROXY", &proxy.url());
        let folder = tempfile::tempdir().expect("a folder");
        let refused = setup.refused_on(folder.path());
        let said = String::from_utf8(refused.stderr).expect("text");
        assert!(said.contains(says), "{does:?}: no {says:?} in {said}");
        assert!(!said.contains("secret"), "{said}");
        if url == &https {
            let named = format!("by the proxy 127.0.0.1:{}", proxy.port);
            assert!(said.contains(&named), "{does:?}: no {named:?} in {said}");
        }
    }
    for wrong in ["socks5://user:secret-word@h", "https://h", "http://user:secret-word@"] {
        let folder = tempfile::tempdir().expect("a folder");
        let refused =
            Setup::embedded_at(&https).env("HTTPS_PROXY", wrong).refused_on(folder.path());
        let said = String::from_utf8(refused.stderr).expect("text");
        assert!(said.contains("HTTPS_PROXY") && !said.contains("secret"), "{wrong}: {said}");
    }
}

/// Runs `expirefs ls` of a bucket at AWS, by a proxy that lets nothing through. Returns what it says,
/// and the host that it was to connect to.
fn host_of(bucket: &str, options: &str) -> (String, Vec<String>) {
    host_of_command(&["ls", bucket], options)
}

fn host_of_command(command: &[&str], options: &str) -> (String, Vec<String>) {
    let proxy = Forward::start(Does::Answer("403 Forbidden"));
    let mut ls = Command::new(env!("CARGO_BIN_EXE_expirefs"));
    ls.args(command).args(["--timeout", "2s"]).args(options.split_whitespace());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            ls.env_remove(name);
        }
    }
    ls.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "key");
    ls.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    ls.env("AWS_EC2_METADATA_DISABLED", "true").env("https_proxy", proxy.url());
    let Output { stderr, .. } = within(HANGS, "ls", move || ls.output().expect("it runs"));
    let mut hosts: Vec<_> = proxy
        .requests()
        .iter()
        .map(|request| request.trim_start_matches("CONNECT ").trim_end_matches(":443").to_owned())
        .collect();
    hosts.dedup();
    (String::from_utf8_lossy(&stderr).into_owned(), hosts)
}

#[test]
fn endpoints_of_aws_are_chosen_by_options_and_by_the_kind_of_bucket() {
    let region = "--region us-west-2";
    let point = "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/name";
    let cases = [
        ("s3://bkt", region, "bkt.s3.us-west-2.amazonaws.com"),
        ("s3://bkt", "--region us-west-2 --fips", "bkt.s3-fips.us-west-2.amazonaws.com"),
        ("s3://bkt", "--region us-west-2 --dual-stack", "bkt.s3.dualstack.us-west-2.amazonaws.com"),
        (
            "s3://bkt",
            "--region us-west-2 --dual-stack --fips",
            "bkt.s3-fips.dualstack.us-west-2.amazonaws.com",
        ),
        (point, region, "name-123456789012.s3-accesspoint.us-east-1.amazonaws.com"),
        (
            &format!("{point}/prefix/"),
            "--region us-east-1 --fips",
            "name-123456789012.s3-accesspoint-fips.us-east-1.amazonaws.com",
        ),
        ("s3://name-abc123-s3alias", region, "name-abc123-s3alias.s3.us-west-2.amazonaws.com"),
        (
            "s3://arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/name",
            region,
            "name-123456789012.op-1.s3-outposts.us-west-2.amazonaws.com",
        ),
    ];
    for (bucket, options, host) in cases {
        let (said, hosts) = host_of(bucket, options);
        assert_eq!(hosts, [host], "{bucket} {options}: {said}");
    }
    let endpoint = "--region us-east-1 --endpoint-url https://h";
    for option in ["--fips", "--dual-stack"] {
        let (said, hosts) = host_of("s3://bkt", &format!("{endpoint} {option}"));
        assert!(said.contains("cannot be used with") && hosts.is_empty(), "{said}");
    }
}

/// Its requests go to the host of its zone, and are signed for the session that the SDK creates there.
#[test]
fn a_directory_bucket_is_reached_in_its_zone() {
    let bucket = "name--usw2-az1--x-s3";
    let object = format!("s3://{bucket}/key");
    for command in [&["get", &object, "/dev/null"][..], &["ls", &object]] {
        let (said, hosts) = host_of_command(command, "--region us-west-2");
        let host = format!("{bucket}.s3express-usw2-az1.us-west-2.amazonaws.com");
        assert_eq!(hosts, [host], "{said}");
    }
}

/// Each request names the account, and a copy also as the owner of its source.
#[test]
fn every_request_names_the_expected_owner() {
    let server = Embedded::with_a_file();
    let proxy = Proxy::start(server.endpoint(), |_| Fault::None);
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let recorded = seen.clone();
    proxy.script(move |request| {
        let header = |name: &str| request.head.text(name).unwrap_or_default();
        recorded.lock().expect("no panic").push((
            format!("{} {}?{}", request.method, request.path, request.query),
            header("x-amz-expected-bucket-owner"),
            header("x-amz-source-expected-bucket-owner"),
            !header("x-amz-copy-source").is_empty(),
            request.query.contains("renameObject"),
        ));
        Fault::None
    });
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
    let mount = setup.with("--expected-bucket-owner 123456789012 --part-size 5MiB").start();
    fs::read(mount.path("file")).expect("read");
    fs::read_dir(mount.dir()).expect("ls").for_each(drop);
    fs::write(mount.path("large"), vec![b'x'; 11 << 20]).expect("write");
    fs::rename(mount.path("large"), mount.path("renamed")).expect("rename");
    fs::remove_file(mount.path("renamed")).expect("unlink");
    drop(mount);
    let seen = seen.lock().expect("no panic");
    assert!(seen.iter().any(|(_, _, _, copies, _)| *copies), "{seen:#?}");
    for (what, owner, source, copies, renames) in seen.iter() {
        let account = if *renames { "" } else { "123456789012" };
        assert_eq!(owner, account, "{what}");
        assert_eq!(source, if *copies { "123456789012" } else { "" }, "{what}");
    }
}
