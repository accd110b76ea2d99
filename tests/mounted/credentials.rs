//! M4: credentials that change while a bucket is mounted. SeaweedFS checks the signatures.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sha1::{Digest, Sha1};

use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy, Request};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::wait::eventually;
use crate::support::{Credentials, REGION};

/// A bucket behind a proxy, and a program that prints the credentials (`credential_process`).
struct Rig {
    bucket: Bucket,
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let bucket = seaweedfs().bucket("credentials");
        for n in 0..4 {
            bucket.put(&format!("file-{n}"), object("x"));
        }
        let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
        let folder = tempfile::tempdir().expect("a folder");
        let rig = Rig { bucket, proxy, folder };
        let config = format!(
            "[default]\ncredential_process = sh -c 'echo >> {0}/asked; cat {0}/current'\n",
            rig.path("").display()
        );
        fs::write(rig.path("config"), config).expect("a file");
        rig.give(&rig.first());
        rig
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn first(&self) -> Credentials {
        self.bucket.endpoint().credentials.clone().expect("SeaweedFS asks for some")
    }

    /// Other ones that SeaweedFS knows (scripts/s3-server).
    fn second(&self) -> Credentials {
        let Credentials { access_key_id, secret_access_key } = self.first();
        Credentials {
            access_key_id: access_key_id + "-2",
            secret_access_key: secret_access_key + "-2",
        }
    }

    /// What the program prints from now on.
    fn give(&self, credentials: &Credentials) {
        let printed = serde_json::json!({
            "Version": 1,
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
        });
        fs::write(self.path("current"), printed.to_string()).expect("a file");
    }

    /// How often the program was started.
    fn asked(&self) -> usize {
        fs::read_to_string(self.path("asked")).unwrap_or_default().lines().count()
    }

    /// The store refuses these credentials from now on.
    fn revoke(&self, credentials: &Credentials, status: u16, code: &str) {
        let scope = format!("Credential={}/", credentials.access_key_id);
        let document = format!("<Error><Code>{code}</Code><Message>gone</Message></Error>");
        self.proxy.script(move |request: &Request| {
            let authorization = request.head.text("authorization").unwrap_or_default();
            if !authorization.contains(&scope) {
                return Fault::None;
            }
            let document = if request.method == "HEAD" { "" } else { &document };
            let answer = Answer::new(status).header("content-type", "application/xml");
            Fault::Answer(answer.body(document.to_owned()))
        });
    }

    fn mount(&self, options: &str) -> Mount {
        self.mount_with(options, |setup| setup)
    }

    fn mount_with(&self, options: &str, more: impl FnOnce(Setup) -> Setup) -> Mount {
        let url = &self.proxy.endpoint().url;
        let place = format!("--endpoint-url {url} --region {REGION} --addressing-style path");
        let setup = Setup::anywhere(&self.bucket.name).with(&place).with(options);
        let config = self.path("config");
        more(setup.env("AWS_CONFIG_FILE", config.to_str().expect("UTF-8"))).start()
    }
}

/// Neither the SDK's cache nor a file that was read keeps what the store refuses.
#[test]
fn revoked_credentials_are_replaced_without_a_remount_and_no_operation_fails() {
    for (status, code) in [(403, "InvalidAccessKeyId"), (400, "ExpiredToken")] {
        let rig = Rig::new();
        let mount = rig.mount("--metadata-ttl 0s");
        assert_eq!(fs::read(mount.path("file-0")).expect("read"), b"x");
        assert_eq!(rig.asked(), 1);
        rig.revoke(&rig.first(), status, code);
        rig.give(&rig.second());
        for n in 1..4 {
            assert_eq!(fs::read(mount.path(format!("file-{n}"))).expect("read"), b"x", "{code}");
        }
        assert_eq!(fs::read_dir(mount.dir()).expect("ls").count(), 4);
        assert_eq!(rig.asked(), 2, "{code}: more would be one for each refusal");
    }
}

/// Keys in a file, which the SDK reads once.
#[test]
fn keys_that_change_in_the_credentials_file_are_read_again() {
    let rig = Rig::new();
    let write = |credentials: &Credentials| {
        let Credentials { access_key_id, secret_access_key } = credentials;
        let keys = format!(
            "[default]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {secret_access_key}\n"
        );
        fs::write(rig.path("config"), keys).expect("a file");
    };
    write(&rig.first());
    let mount = rig.mount("--writable --ttl 1h --no-spool --metadata-ttl 0s");
    fs::write(mount.path("new-1"), "x").expect("write");
    rig.revoke(&rig.first(), 403, "InvalidAccessKeyId");
    write(&rig.second());
    fs::write(mount.path("new-2"), "y").expect("write");
    assert_eq!(rig.bucket.content("new-2").as_deref(), Some(b"y".as_slice()));
}

/// EACCES with the reason, not EIO; and the program is not started for each request.
#[test]
fn revoked_credentials_that_nobody_replaces_are_eacces() {
    let rig = Rig::new();
    let mount = rig.mount("--metadata-ttl 0s --timeout 5s");
    rig.revoke(&rig.first(), 400, "ExpiredToken");
    for _ in 0..20 {
        let refused =
            fs::read_dir(mount.dir()).and_then(|names| names.collect::<Result<Vec<_>, _>>());
        assert_eq!(refused.expect_err("refused").raw_os_error(), Some(libc::EACCES));
    }
    assert!(rig.asked() < 15, "{}", rig.asked());
    let said = mount.said().join("\n");
    assert!(said.contains("access denied: ExpiredToken (400): gone"), "{said}");
    rig.proxy.behave();
    assert_eq!(fs::read(mount.path("file-0")).expect("read"), b"x");
}

/// A profile whose credentials come from IAM Identity Center, for which the proxy answers: the first
/// token gives the first credentials, the second one the second, and no other gives any.
fn sign_in_by_sso(rig: &Rig) {
    const START: &str = "https://start.example/start";
    let profile = format!(
        "[default]\nsso_start_url = {START}\nsso_region = {REGION}\nsso_account_id = 123456789012\n\
         sso_role_name = reader\n"
    );
    fs::write(rig.path("config"), profile).expect("a file");
    let name: String = Sha1::digest(START).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(rig.path(".aws/sso/cache")).expect("a folder");
    std::os::unix::fs::symlink(rig.path("token"), rig.path(&format!(".aws/sso/cache/{name}.json")))
        .expect("a link");
}

/// What `aws sso login` writes.
fn log_in(rig: &Rig, token: &str) {
    let token = serde_json::json!({ "accessToken": token, "expiresAt": "2099-01-01T00:00:00Z" });
    fs::write(rig.path("token"), token.to_string()).expect("a file");
}

/// The sign-in service, and the store, which accept only this token and these credentials.
fn accept(rig: &Rig, token: &'static str, credentials: &Credentials) {
    let Credentials { access_key_id, secret_access_key } = credentials.clone();
    let scope = format!("Credential={access_key_id}/");
    let role = serde_json::json!({ "roleCredentials": {
        "accessKeyId": access_key_id, "secretAccessKey": secret_access_key,
        "sessionToken": "", "expiration": 4_070_908_800_000_u64,
    }});
    let answer = |status, kind, body: String| {
        Fault::Answer(Answer::new(status).header("content-type", kind).body(body))
    };
    rig.proxy.script(move |request: &Request| {
        let text = |name| request.head.text(name).unwrap_or_default();
        if request.path.starts_with("/federation/credentials") {
            return match text("x-amz-sso_bearer_token") == token {
                true => answer(200, "application/json", role.to_string()),
                false => answer(401, "application/json", r#"{"message":"ended"}"#.to_owned()),
            };
        }
        match text("authorization").contains(&scope) {
            true => Fault::None,
            false if request.method == "HEAD" => answer(400, "application/xml", String::new()),
            false => {
                let code = "<Error><Code>ExpiredToken</Code><Message>ended</Message></Error>";
                answer(400, "application/xml", code.to_owned())
            }
        }
    });
}

#[test]
fn an_sso_session_that_has_ended_is_eacces_until_somebody_logs_in_again() {
    let rig = Rig::new();
    sign_in_by_sso(&rig);
    log_in(&rig, "one");
    accept(&rig, "one", &rig.first());
    let home = rig.path("");
    let sso = rig.proxy.endpoint().url.clone();
    let mount = rig.mount_with("--metadata-ttl 0s --timeout 5s", |setup| {
        setup.env("HOME", home.to_str().expect("UTF-8")).env("AWS_ENDPOINT_URL_SSO", &sso)
    });
    assert_eq!(fs::read(mount.path("file-0")).expect("read"), b"x");
    accept(&rig, "two", &rig.second());
    let list = || fs::read_dir(mount.dir()).and_then(|names| names.collect::<Result<Vec<_>, _>>());
    let refused = list().expect_err("the session has ended");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{refused}");
    log_in(&rig, "two");
    eventually(Duration::from_secs(20), || list().map(drop).map_err(|error| error.to_string()));
    assert_eq!(fs::read(mount.path("file-1")).expect("read"), b"x");
}
