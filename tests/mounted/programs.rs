//! Unmodified programs that know nothing of S3: their output on a mount is the same as on a folder
//! with the same files.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::support::content::{KIB, MIB, content};
use crate::support::mount::Mount;
use crate::support::nginx::Nginx;
use crate::support::s3_server::{Bucket, http_date, object, seaweedfs};
use crate::support::tools::{attempt, shell};

/// Makes the files that the programs read.
const MAKE: &str = r#"
    sqlite3 cache.db 'create table t (id integer primary key, x integer, text varchar);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
        insert into t select i, i * 7919 % 60000, printf("row %d of some length or other", i) from n;
        create index by_x on t (x);'
    export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com \
        GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
    git init -q -b main work
    for i in 1 2 3 4 5 6 7 8; do
        for j in 1 2 3 4 5 6 7 8 9; do head -c 20000 /dev/urandom | base64 > work/f$i$j; done
        git -C work add . && git -C work commit -q -m "commit $i"
    done
    git clone -q --bare work repo.git
    git -C repo.git gc -q && git -C repo.git branch loose
    rm -r work repo.git/hooks
    convert -size 1600x1200 plasma:red-blue photo.png
    convert photo.png -quality 90 photo.jpg
    mkdir members && for i in $(seq 40); do seq $i 20000 > members/$i.txt; done
    python3 -c 'import zipfile, os
with zipfile.ZipFile("archive.zip", "w", zipfile.ZIP_DEFLATED) as z:
    for name in sorted(os.listdir("members")): z.write("members/" + name)'
    rm -r members
    seq 3000000 > numbers.txt
"#;

/// A folder with those files, and a bucket with the same ones.
static FILES: LazyLock<(TempDir, Bucket)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    shell(folder.path(), MAKE);
    let bucket = seaweedfs().bucket("programs");
    let found = shell(folder.path(), "find . -type f -printf '%P\\n'");
    let upload = |key: &str| {
        let bytes = fs::read(folder.path().join(key)).expect(key);
        (key.to_owned(), object(bytes))
    };
    bucket.put_all(found.lines().map(upload));
    (folder, bucket)
});

fn mounted() -> (Mount, &'static Path) {
    let (folder, bucket) = &*FILES;
    (bucket.mounting().start(), folder.path())
}

/// Checks that the script prints the same on the mount and on the folder, and prints something.
#[track_caller]
fn same_on_both(script: &str) -> Mount {
    let (mount, folder) = mounted();
    let [got, want] = [mount.dir(), folder].map(|dir| shell(dir, script));
    assert!(!want.trim().is_empty(), "{script} says nothing: this proves nothing");
    assert!(got == want, "{script}\non the mount:\n{got}\non the folder:\n{want}");
    mount
}

#[test]
fn sqlite_queries_a_database() {
    same_on_both(
        "sqlite3 'file:cache.db?mode=ro&immutable=1' 'pragma integrity_check;
         select count(*), sum(x) from t;
         select text from t where x in (1, 500, 59999) order by x;
         select x, id from t where text like \"%99 of%\" order by x limit 20;'",
    );
}

#[test]
fn git_reads_a_bare_repository() {
    let mount = same_on_both(
        "git -c safe.directory='*' --git-dir=repo.git log --oneline --stat --all
         git -c safe.directory='*' --git-dir=repo.git fsck --full 2>&1
         git -c safe.directory='*' --git-dir=repo.git show main~3:f22 | sha256sum",
    );
    let clone = tempfile::tempdir().expect("a folder");
    let from = mount.path("repo.git");
    let script = format!("git -c safe.directory='*' clone -q {} c && ls c | wc -l", from.display());
    assert_eq!(shell(clone.path(), &script), "72\n");
}

#[test]
fn imagemagick_decodes_pictures() {
    same_on_both("for f in photo.png photo.jpg; do identify -format '%m %w %h %#\\n' $f; done");
}

#[test]
fn python_reads_an_archive_and_maps_a_file() {
    same_on_both(
        r#"python3 -c '
import mmap, zipfile, zlib
with zipfile.ZipFile("archive.zip") as z:
    print(z.testzip(), [(i.filename, i.CRC) for i in z.infolist()][::-1])
    print(zlib.crc32(z.read("members/33.txt")))
with open("numbers.txt", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    print(len(m), m.find(b"\n1999999\n"), m.rfind(b"777"), m[-8:], zlib.crc32(m))
'"#,
    );
}

#[test]
fn cmp_rsync_and_tail_read_every_byte() {
    let (mount, folder) = mounted();
    let [here, there] = [mount.dir(), folder].map(|dir| dir.display().to_string());
    shell(folder, &format!("for f in *.*g *.db *.txt *.zip; do cmp $f {here}/$f; done"));
    let compare = "rsync -rnc --itemize-changes --omit-dir-times --size-only";
    assert_eq!(shell(folder, &format!("{compare} {here}/ {there}/")), "");
    let copy = tempfile::tempdir().expect("a folder");
    shell(copy.path(), &format!("rsync -a {here}/ copy"));
    // A bucket has no folders without files.
    let every = format!(
        "cd {there} && find . -type f -exec cmp {{}} {}/copy/{{}} \\;",
        copy.path().display()
    );
    assert_eq!(shell(folder, &every), "");
    // It does not grow, so `tail -f` prints its end and waits.
    let output = attempt(mount.dir(), "timeout 2 tail -n 3 -f numbers.txt");
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2999998\n2999999\n3000000\n");
}

/// nginx under load serves live objects to their last byte, and 404 for expired ones from their
/// expiry on; there are no other responses.
#[test]
fn nginx_serves_the_mount_while_objects_expire() {
    const LOAD: u64 = 6;
    let bucket = seaweedfs().bucket("nginx");
    let pages: Vec<_> = (0..40).map(|i| content(i, 10 * KIB + 7 * i as usize)).collect();
    let big = content(99, 5 * MIB);
    bucket.put("big", object(big.clone()));
    let now = SystemTime::now();
    // They expire within the time of the load; every fourth does not.
    let ends = |i: u64| (!i.is_multiple_of(4)).then(|| now + Duration::from_secs(4 + i % LOAD));
    bucket.put_all(pages.iter().zip(0..).map(|(page, i)| {
        let upload = object(page.clone());
        let upload = match ends(i) {
            Some(end) => upload.expires(http_date(end)),
            None => upload,
        };
        (format!("p{i}"), upload)
    }));
    let mount = bucket.mounting().with("--metadata-ttl 60s").start();
    let nginx = Nginx::start("", &format!("root {}; sendfile on;", mount.dir().display()));
    let script = tempfile::NamedTempFile::new().expect("a file");
    let lua = r#"
        local i = 0
        request = function() i = (i + 7) % 41
            return wrk.format("GET", i == 40 and "/big" or "/p" .. i) end
        local threads = {}
        function setup(thread) table.insert(threads, thread) end
        bad, good = 0, 0
        response = function(status)
            if status == 200 or status == 404 then good = good + 1 else bad = bad + 1 end end
        done = function(summary)
            local bad, good = 0, 0
            for _, t in ipairs(threads) do bad = bad + t:get("bad"); good = good + t:get("good") end
            local e = summary.errors
            print("RESULT", bad + e.connect + e.read + e.write + e.timeout, good)
        end"#;
    fs::write(script.path(), lua).expect("a script for wrk");
    let url = format!("http://127.0.0.1:{}/", nginx.port());
    let mut wrk = Command::new("wrk");
    wrk.args(["-t2", "-c16", &format!("-d{LOAD}s"), "-s"]).arg(script.path()).arg(url);
    let mut wrk = wrk.stdout(Stdio::piped()).spawn().expect("wrk");

    let slack = Duration::from_millis(1500); // the instant is a whole second, cut off
    while wrk.try_wait().expect("wrk").is_none() {
        for (i, page) in (0..).zip(&pages) {
            let asked = SystemTime::now();
            let (status, body) = nginx.get(&format!("p{i}"));
            let answered = SystemTime::now();
            match (status, ends(i)) {
                (200, end) => {
                    assert!(body == *page, "the bytes of p{i}");
                    assert!(end.is_none_or(|end| asked < end + slack), "p{i} has expired");
                }
                (404, Some(end)) => assert!(answered > end - slack, "p{i} lives still"),
                (other, _) => panic!("p{i}: status {other}"),
            }
        }
        assert!(nginx.get("big") == (200, big.to_vec()), "the bytes of big");
    }
    let output = wrk.wait_with_output().expect("wrk");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = said.lines().find(|line| line.starts_with("RESULT")).expect("a result of wrk");
    let numbers: Vec<u64> = result.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(numbers[0] == 0 && numbers[1] > 100, "{said}");
    for (i, _) in (0..).zip(&pages).filter(|(i, _)| ends(*i).is_none()) {
        assert_eq!(nginx.get(&format!("p{i}")).0, 200, "p{i}");
    }
}
