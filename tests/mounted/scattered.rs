//! Scattered reads of a file that fits into the buffer memory: once they have cost as much as the
//! rest of the file, the rest is fetched with one request and stored in the kernel's page cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::support::content::{KIB, MIB, assert_same_bytes, content, part, scattered};
use crate::support::embedded::Embedded;
use crate::support::mount::Setup;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::shell;
use crate::support::wait::eventually;

const PAGE: usize = 4 * KIB;
const FIRST_BYTE: Duration = Duration::from_millis(20);

/// A proxy that delays the first byte of each body.
fn slowly(store: &Embedded) -> Proxy {
    Proxy::start(store.endpoint(), |request| match request.is_get() && request.of_version {
        true => Fault::Delay(FIRST_BYTE),
        false => Fault::None,
    })
}

fn bodies(proxy: &Proxy) -> u64 {
    proxy.did("delay")
}

/// SQLite reads a database page by page, in the order of its trees.
#[test]
fn a_cold_database_takes_few_requests() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = r#"sqlite3 cold.db 'create table t (id integer primary key, x integer, text varchar);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
        insert into t select i, i * 7919 % 200000, printf("row %d of some length, or another", i) from n;
        create index by_x on t (x); create index by_text on t (text);'"#;
    shell(folder.path(), make);
    let database = std::fs::read(folder.path().join("cold.db")).expect("the database");
    let size = database.len();
    assert!(size > 12 * MIB, "{size} bytes");
    let store = Embedded::start();
    store.put("cold.db", database);
    let proxy = slowly(&store);
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).start();
    let check = "sqlite3 'file:cold.db?mode=ro&immutable=1' 'pragma integrity_check'";
    assert_eq!(shell(mount.dir(), check), "ok\n");
    let gets = bodies(&proxy);
    assert!(gets <= 100, "{gets} GETs for {} pages", size / PAGE);
    let received = mount.status().number("bytes_received") as usize;
    assert!(received <= size * 3 / 2, "{received} bytes received of {size}");
}

/// The kernel has all the bytes that were stored in its page cache: it reads the file without a
/// request.
#[test]
fn the_kernel_has_the_rest_of_the_file() {
    const SIZE: usize = 20 * MIB + 12_345;
    let store = Embedded::start();
    store.put("file", content(1, SIZE));
    let proxy = slowly(&store);
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).start();
    let path = mount.path("file");
    let file = File::open(&path).expect("open");
    let mut page = [0; PAGE];
    for offset in scattered(500, SIZE / PAGE).map(|page| page * PAGE) {
        file.read_exact_at(&mut page, offset as u64).expect("read");
        assert_same_bytes("file", &page, &part(1, offset..offset + PAGE));
    }
    assert!(bodies(&proxy) <= 100, "{} GETs", bodies(&proxy));
    eventually(Duration::from_secs(20), || match mount.status().number("buffer_bytes") {
        0 => Ok(()),
        held => Err(format!("{held} bytes are not in the page cache yet")),
    });
    let (asked, given) = (bodies(&proxy), mount.status().number("bytes_read"));
    let mut all = vec![0; SIZE];
    file.read_exact_at(&mut all, 0).expect("read all");
    assert_same_bytes("file", &all, &content(1, SIZE));
    let asked_for = mount.status().number("bytes_read") - given;
    assert!(asked_for <= MIB as i64 / 4, "the kernel asked for {asked_for} bytes of what it has");
    assert_eq!(bodies(&proxy), asked, "GETs for what the kernel has");
    drop(file);
    let again = File::open(&path).expect("open again");
    again.read_exact_at(&mut page, (SIZE - PAGE) as u64).expect("read again");
    assert_eq!(bodies(&proxy), asked, "GETs of a second open");
}

/// Pages are stored in the kernel while other threads read them, through their own handles and with
/// little memory: every byte is right, and no read hangs.
#[test]
fn pages_are_stored_in_the_kernel_while_they_are_read() {
    const SIZE: usize = 3 * MIB + 777;
    const FILES: u64 = 4;
    let store = Embedded::start();
    (0..FILES).for_each(|i| store.put(&i.to_string(), content(i, SIZE)));
    let proxy = slowly(&store);
    let options = "--buffer-memory 8MiB --max-open-bodies 3 --fuse-threads 3";
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).with(options).start();
    thread::scope(|scope| {
        for thread in 0..12 {
            let (seed, mount) = (thread % FILES, &mount);
            scope.spawn(move || {
                let file = File::open(mount.path(seed.to_string())).expect("open");
                let mut piece = vec![0; 20 * KIB];
                let from = SIZE - piece.len();
                for at in scattered(300, from).map(|at| (at + thread as usize * 7919) % from) {
                    file.read_exact_at(&mut piece, at as u64).expect("read");
                    let want = part(seed, at..at + piece.len());
                    assert_same_bytes(&format!("{seed} at {at}"), &piece, &want);
                }
            });
        }
    });
    let status = mount.status();
    assert!(status.number("buffer_bytes_peak") <= 8 * MIB as i64);
}
