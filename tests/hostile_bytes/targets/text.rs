//! Text from command lines, `/etc/fstab`, the table of mounts and key files.

use ssefs::cli::parsers;
use ssefs::keys::kms::AliasName;
use ssefs::keys::{Passphrase, read_key};

/// The list after `-o`.
pub fn mount_options(bytes: &[u8]) {
    parsers::mount_options(bytes);
}

pub fn mount_options_seeds() -> Vec<Vec<u8>> {
    [
        &b"ro,rw,mode=kms,keystore=/k,key_file=/f,key_fd=3,passphrase,allow_other,acl,noacl"[..],
        b"writeback=off,ttl=1,threads=8,cache_entries=9,cache_ttl=7,rotation_days=90,key_check=5",
        b"key_id=alias/a,bucket_key,bucket_key_ttl=60,bucket_key_uses=9,context=a=b",
        b"audit_sync=always,audit_level=uses,audit=required,audit_segment=64,nonempty,log=debug",
        b"fsname=/a\\,b\\\\c,suid,nosuid,dev,nodev,exec,sync,dirsync,strictatime,x-a=b",
        b"log_file=/l,remount,_netdev,user_id=0,default_permissions,subtype=ssefs,,comment=\xff",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// All other text; the first byte says who reads it.
pub fn others(bytes: &[u8]) {
    let Some((reader, rest)) = bytes.split_first() else { return };
    match reader % 6 {
        0 => parsers::mount8_call(rest),
        1 => parsers::command_line(rest),
        2 => parsers::audit_arguments(&String::from_utf8_lossy(rest)),
        3 => parsers::mountinfo_line(rest),
        4 => drop(read_key(rest, "hostile")),
        _ => {
            drop(AliasName::parse(&String::from_utf8_lossy(rest)));
            drop(Passphrase::new(rest.to_vec().into()));
        }
    }
}

pub fn others_seeds() -> Vec<Vec<u8>> {
    let texts: [(u8, &[u8]); 11] = [
        (0, b"/b\n/m\n-o\nrw,mode=managed\n-t\nfuse.ssefs"),
        (1, b"ssefs\nmount\n-o\nro\n--key-file\nk\n/b\n/m"),
        (1, b"ssefs\naudit\nshow\n--since\n2h\n--last\n3"),
        (2, b"2026-11-20T08:15:09.25+02:00"),
        (2, b"45s"),
        (2, b"7:0000000000000000000000000000000000000000000000000000000000000000"),
        (3, br"73 28 0:48 / /mnt/a\040b rw,nosuid shared:1 - fuse.ssefs /d\134x\012 rw,user_id=0"),
        (4, b"0000000000000000000000000000000000000000000000000000000000000000\n"),
        (4, b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (5, b"alias/payroll/2026"),
        (5, b"alias/aws/x"),
    ];
    texts.map(|(reader, text)| [&[reader], text].concat()).to_vec()
}
