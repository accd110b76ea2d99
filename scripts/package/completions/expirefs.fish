# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_expirefs_global_optspecs
    string join \n log= log-to= log-file= log-format= h/help V/version
end

function __fish_expirefs_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_expirefs_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_expirefs_using_subcommand
    set -l cmd (__fish_expirefs_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c expirefs -n "__fish_expirefs_needs_command" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_needs_command" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_needs_command" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_needs_command" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_needs_command" -s V -l version -d 'Print version'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "mount" -d 'Mount a bucket, or a prefix of it'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "umount" -d 'Unmount, after reads in flight have ended or 5 s have passed; also clears a dead mount'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "status" -d 'Show the open files of a mount, its counters, and how its cap was derived'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "top" -d 'Show a mount live: bodies, operations, requests and what they cost, latencies, the open files with their processes, and what expires next. Prints once if standard output is not a terminal'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "list" -d 'Show the expirefs mounts of this host, and whether each is served'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "log" -d 'Show what a running mount logs, or change it'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "ls" -d 'List a bucket, with the expiry of each object: live ones, expired ones, or both'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "explain" -d 'Explain why an object is visible or not: its headers, their meaning, both clocks, the verdict'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "put" -d 'Store a file, or standard input, as an object with an expiry'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "get" -d 'Fetch an object that has not expired, into a file or to standard output'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "rm" -d 'Delete objects that have not expired, each only if it is still the one that was found'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "ttl" -d 'Set how long files of a mount, or objects, live from now on'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "sweep" -d 'List what has expired, or delete it, each only if it was not renewed meanwhile'
complete -c expirefs -n "__fish_expirefs_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l fsname -d 'What df(1) and the mount table show as the source [default: expirefs:s3://BUCKET/PREFIX]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l env-file -d 'File with variables for the daemon\'s environment, such as credentials: lines NAME=VALUE' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l metadata-ttl -d 'How long metadata of an object is cached: a duration, or `expiry`: until the object expires (60s for one without an expiry). With `expiry` a replacement, a deletion or a purge is not noticed before the old expiry, unless a read needs a new request' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l negative-ttl -d 'How long it is cached that a name does not exist [default: 0s; with --writable 1s, but at most --metadata-ttl]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l ls -d 'How a listing treats objects that are not cached; exact: it requests the headers of each, and shows no expired name; lazy: it shows them all, and a lookup decides' -r -f -a "exact\t'Never show an expired name: request the headers of each object that is not cached'
lazy\t'Show names as the store lists them, except those known to have expired'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l index -d 'Keep the cached expiry headers in this file, for the next mount of the bucket' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l index-memory -d 'Memory for cached expiry headers, 64 bytes per object: listings request no headers of objects in this cache' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l probe-size -d 'First bytes of a file to fetch with the first lookup of its name, where lookups are followed by opens: a file up to this size takes one request; 0: none' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l probe-cache -d 'Memory to cache these bytes until the open, all files together' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l buffer-memory -d 'Memory for buffers between the store and the kernel, all open files together' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l ttl -d 'Lifetime of a written file, counted from its commit and stored as Expires; never: no expiry' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l ttl-rule -d 'Another lifetime for files whose path below the mount point matches; may be repeated: the first match counts. As in a gitignore file, a glob without `/` matches names, in any directory, and `*` does not match `/`: \'*.log=10m\', \'cache/**=1h\', \'/keep/*=never\'' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l spool -d 'Directory for files larger than a part until their commit, and for the list of unfinished uploads [default: /var/tmp]' -r -f -a "(__fish_complete_directories)"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l spool-size -d 'Maximum size of all these files together; beyond it, writes fail with ENOSPC [default: 10GiB]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l touch -d 'Effect of touch(1), which sets the times of a file to now, on its expiry [default: ignore]' -r -f -a "ignore\t'Nothing'
renew\t'Restart its TTL, if less than half of it is left'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l stage -d 'Delay the upload of a closed file whose path matches until it is renamed, for 5 s at most: one PUT instead of PUT, COPY and DELETE. A crash before that loses the file. May be repeated; example: \'*.tmp\'' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l part-size -d 'Size of a part of a multipart upload; S3 allows 10,000 parts per file. A file up to this size is kept in --buffer-memory and is one PUT [default: 8MiB]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l storage-class -d 'Storage class of written files; what is only renamed or given a new end keeps its own [default: STANDARD]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l sse -d 'Server-side encryption of files that are written, renamed or given a new expiry [default: the bucket\'s]' -r -f -a "AES256\t'With keys of the store'
aws:kms\t'With a key of AWS KMS'
aws:kms:dsse\t'With a key of AWS KMS, in two layers'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l sse-kms-key-id -d 'AWS KMS key for this encryption: id, alias or ARN [default: the bucket\'s]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l acl -d 'Canned ACL of files that are written, renamed or given a new expiry [default: private]' -r -f -a "private\t''
public-read\t''
public-read-write\t''
authenticated-read\t''
aws-exec-read\t''
bucket-owner-read\t''
bucket-owner-full-control\t''"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l max-open-bodies -d 'Maximum number of open bodies [default: as many as the descriptor limit allows]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l open-wait -d 'How long an open waits for a free body before ENFILE' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l metadata-concurrency -d 'Maximum number of concurrent HEAD and LIST requests; fewer if descriptors are scarce' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l timeout -d 'How long a system call waits for the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l idle-warn -d 'Log a body that was held open for this long without a read; 0s: never' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l metrics -d 'Serve metrics at http://HOST:PORT/metrics, in the formats of OpenMetrics and Prometheus. Anybody who can connect can read them; they contain the names of bucket and mount point, but no keys' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l slow -d 'Log an operation that took longer than this, with what it waited for [default: none]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l fuse-threads -d 'Threads that serve the kernel' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l uid -d 'Owner [default: the user who mounts]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l gid -d 'Group [default: the group of the user who mounts]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l file-mode -d 'Permissions of files, octal; write bits are removed' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l dir-mode -d 'Permissions of directories, octal; write bits are removed' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -s f -l foreground -d 'Stay in the foreground; without it, the command returns when the mount serves, and a daemon goes on'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l replace-dead -d 'Clear a dead mount at DIR, left by a crash, before mounting'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l noexec -d 'Forbid executing the files of the mount'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l writable -d 'Allow writing files, each with an expiry; needs --ttl'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l no-spool -d 'Keep no content on disk: files larger than a part can only be written sequentially'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l strict-attributes -d 'Refuse changes of mode, owner and times with EPERM; by default they succeed without effect'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l content-type-by-name -d 'Set Content-Type by the file name extension (the default)'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l no-content-type-by-name -d 'Set no Content-Type: S3 then uses binary/octet-stream'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l no-parking -d 'Never close an idle body to make room for another open'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l keep-fd-limit -d 'Do not raise the soft limit of descriptors to the hard limit'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -l allow-other -d 'Allow other users to access the mount, as the permissions say'
complete -c expirefs -n "__fish_expirefs_using_subcommand mount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -l force -d 'Detach at once, without the daemon: open files stay usable while it lives'
complete -c expirefs -n "__fish_expirefs_using_subcommand umount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l watch -d 'Show it anew each INTERVAL, 1s if none is given, until a signal comes; with --json, one object per line' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l openmetrics -d 'As OpenMetrics text, the same as `mount --metrics` serves'
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -s i -l interval -d 'How often it is shown anew' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand log" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand log" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand log" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand log" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand log" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l expired -d 'Only expired objects'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l live -d 'Only live objects: what a mount shows'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l all -d 'All objects (the default)'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -s r -l recursive -d 'All keys under the prefix, not only one level'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -s l -l long -d 'With size, Last-Modified, and what decided the expiry'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l ttl -d 'How long the object lives, counted from when it is stored; never: no expiry' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l expires -d 'When it expires: a date such as 2026-11-25T20:00:00Z' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l storage-class -d 'Storage class of written files; what is only renamed or given a new end keeps its own [default: STANDARD]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l sse -d 'Server-side encryption of files that are written, renamed or given a new expiry [default: the bucket\'s]' -r -f -a "AES256\t'With keys of the store'
aws:kms\t'With a key of AWS KMS'
aws:kms:dsse\t'With a key of AWS KMS, in two layers'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l sse-kms-key-id -d 'AWS KMS key for this encryption: id, alias or ARN [default: the bucket\'s]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l acl -d 'Canned ACL of files that are written, renamed or given a new expiry [default: private]' -r -f -a "private\t''
public-read\t''
public-read-write\t''
authenticated-read\t''
aws-exec-read\t''
bucket-owner-read\t''
bucket-owner-full-control\t''"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l if-absent -d 'Fail if a live object has this key; an expired one is replaced'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l content-type-by-name -d 'Set Content-Type by the file name extension (the default)'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l no-content-type-by-name -d 'Set no Content-Type: S3 then uses binary/octet-stream'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand put" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l if-live-for -d 'Count an object that expires within this time as expired' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand rm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l sse -d 'Server-side encryption of files that are written, renamed or given a new expiry [default: the bucket\'s]' -r -f -a "AES256\t'With keys of the store'
aws:kms\t'With a key of AWS KMS'
aws:kms:dsse\t'With a key of AWS KMS, in two layers'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l sse-kms-key-id -d 'AWS KMS key for this encryption: id, alias or ARN [default: the bucket\'s]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l acl -d 'Canned ACL of files that are written, renamed or given a new expiry [default: private]' -r -f -a "private\t''
public-read\t''
public-read-write\t''
authenticated-read\t''
aws-exec-read\t''
bucket-owner-read\t''
bucket-owner-full-control\t''"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand ttl" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l grace -d 'How long ago an object must have expired' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l max-delete -d 'Stop after so many deletions' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l ttl-between -d 'A promise that saves requests: all objects have an expiry, at least MIN and at most MAX after their Last-Modified' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l uploads -d 'Also incomplete multipart uploads that were created longer ago than this' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l rate -d 'Requests per second, at most' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l shards -d 'Parts of the key space that are swept at the same time, as the listing divides it' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l state -d 'Keep in this file what is left to sweep, and go on there after an interruption' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l index -d 'Keep expiry headers in this file, or use those of a mount: only new objects cost a HEAD' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l interval -d 'Stay, and sweep again this long after the start of the last sweep' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l metrics -d 'Write the results of each sweep to this file, as OpenMetrics text' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l endpoint-url -d 'S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI, by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]' -r -f
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l region -d 'Region of the bucket' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l profile -d 'Profile of the AWS configuration files' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l addressing-style -d 'Where the bucket\'s name goes; auto: in the host for AWS, else in the path' -r -f -a "auto\t'In the host for AWS, in the path for any other endpoint'
path\t'http://HOST/BUCKET/KEY'
virtual\t'http://BUCKET.HOST/KEY'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l ca-bundle -d 'Trust the certificates in this PEM file, and not the system\'s [default: AWS_CA_BUNDLE or the profile\'s ca_bundle]' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l expected-bucket-owner -d 'The account that must own the bucket: the store refuses requests to one of another owner' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l on-unparsable -d 'How to treat an Expires that is not a date, or a max-age that is not a number' -r -f -a "expired\t'Already expired, as RFC 9111 §5.3 says'
fresh\t'As if the object had no such header'
error\t'EIO'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l default-ttl -d 'Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l cache-control -d 'How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified, instead of Expires' -r -f -a "ignore\t'Nothing'
last-modified\t'`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l expires-from -d 'Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings a HEAD per object' -r -f -a "headers\t'The object\'s headers: exact, but a listing sends a HEAD for each key that is not cached'
list\t'Last-Modified only, which a listing contains: a listing sends no HEAD'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l clock -d 'Which clock decides [default: server]' -r -f -a "server\t'The store\'s, learned from its responses'
local\t'This host\'s'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l metadata-concurrency -l concurrency -d 'Maximum number of concurrent HEAD requests' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l timeout -d 'Timeout of a request to the store, including retries' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l log -d 'What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is changed by `expirefs log`' -r
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l log-to -d 'Where to log [default: standard error, or the journal if systemd has connected standard error to it; a mount in the background: the journal if there is one, else syslog, else nowhere]' -r -f -a "stderr\t'Standard error'
syslog\t'syslog(3), with the facility `daemon`'
journald\t'The journal of systemd, with each field of an event as `EXPIREFS_…`'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l log-file -d 'Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)' -r -F
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l log-format -d 'The form of a line of the log' -r -f -a "text\t'For people: time, level, module, text, and fields as NAME=VALUE'
json\t'One JSON object'"
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l delete -d 'Delete what is due, instead of listing it'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l unparsable -d 'Also delete objects whose expiry cannot be parsed, if they are older than --grace'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l lifecycle-advice -d 'Print the lifecycle rule that would do the same for nothing, if there is one, and on standard error what it does otherwise'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l json -d 'Print JSON: one object per line'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -s q -l quiet -d 'Print nothing but errors'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l no-sign-request -d 'Send requests without credentials, for public buckets'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l requester-pays -d 'Pay for the requests to a requester-pays bucket'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l fips -d 'Use endpoints of AWS that are certified for FIPS 140'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l dual-stack -d 'Use endpoints of AWS with IPv6 and IPv4'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -l lifecycle -d 'Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier'
complete -c expirefs -n "__fish_expirefs_using_subcommand sweep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "mount" -d 'Mount a bucket, or a prefix of it'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "umount" -d 'Unmount, after reads in flight have ended or 5 s have passed; also clears a dead mount'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "status" -d 'Show the open files of a mount, its counters, and how its cap was derived'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "top" -d 'Show a mount live: bodies, operations, requests and what they cost, latencies, the open files with their processes, and what expires next. Prints once if standard output is not a terminal'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "list" -d 'Show the expirefs mounts of this host, and whether each is served'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "log" -d 'Show what a running mount logs, or change it'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "ls" -d 'List a bucket, with the expiry of each object: live ones, expired ones, or both'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "explain" -d 'Explain why an object is visible or not: its headers, their meaning, both clocks, the verdict'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "put" -d 'Store a file, or standard input, as an object with an expiry'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "get" -d 'Fetch an object that has not expired, into a file or to standard output'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "rm" -d 'Delete objects that have not expired, each only if it is still the one that was found'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "ttl" -d 'Set how long files of a mount, or objects, live from now on'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "sweep" -d 'List what has expired, or delete it, each only if it was not renewed meanwhile'
complete -c expirefs -n "__fish_expirefs_using_subcommand help; and not __fish_seen_subcommand_from mount umount status top list log ls explain put get rm ttl sweep help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
