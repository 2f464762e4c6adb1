"""Users and groups of images, and the ids that those of Debian's packages always have.

Debian gives the users of its packages the first free id of 100 to 999, in the order in which they
are installed (adduser.conf(5), Policy 9.2.2). In an image an id must follow from the name alone:
the same in every image, whatever else is in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

ACCOUNT_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?"
"""The name of a user or group of Debian's packages, which have dots and capitals as well; a dollar
ends that of a machine (useradd(8))."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    uid: int
    gid: int
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlternativeLink:
    """A name that several packages can give: `link` leads to `target` (paths without a leading
    slash), of two the one with the higher `priority`."""

    link: str
    target: str
    priority: int


@dataclass(frozen=True, slots=True)
class Declared:
    """What an output brings besides its files: accounts, and links that are chosen in an image."""

    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    alternatives: tuple[AlternativeLink, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.users or self.groups or self.alternatives)


NOTHING = Declared()


def united(first: Declared, second: Declared) -> Declared:
    """What both declare, by name; the members of a group together."""
    users = {user.name: user for user in (*second.users, *first.users)}
    groups: dict[str, Group] = {}
    for group in (*first.groups, *second.groups):
        known = groups.get(group.name, group)
        members = tuple(sorted({*known.members, *group.members}))
        groups[group.name] = replace(known, members=members)
    return Declared(
        tuple(users[name] for name in sorted(users)),
        tuple(groups[name] for name in sorted(groups)),
        (*first.alternatives, *second.alternatives),
    )


_BASE_GROUPS = """
    root=0 daemon=1 bin=2 sys=3 adm=4 tty=5 disk=6 lp=7 mail=8 news=9 uucp=10 man=12 proxy=13
    kmem=15 dialout=20 fax=21 voice=22 cdrom=24 floppy=25 tape=26 sudo=27 audio=29 dip=30
    www-data=33 backup=34 operator=37 list=38 irc=39 src=40 shadow=42 utmp=43 video=44 sasl=45
    plugdev=46 staff=50 games=60 users=100 nogroup=65534
"""
BASE_GROUPS = {name: int(gid) for name, _, gid in (w.partition("=") for w in _BASE_GROUPS.split())}
"""base-passwd 3.6.1, /usr/share/base-passwd/group.master."""

_BASE_USERS = """
root:0:0:root:/root:/bin/bash
daemon:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:2:2:bin:/bin:/usr/sbin/nologin
sys:3:3:sys:/dev:/usr/sbin/nologin
games:5:60:games:/usr/games:/usr/sbin/nologin
man:6:12:man:/var/cache/man:/usr/sbin/nologin
lp:7:7:lp:/var/spool/lpd:/usr/sbin/nologin
mail:8:8:mail:/var/mail:/usr/sbin/nologin
news:9:9:news:/var/spool/news:/usr/sbin/nologin
uucp:10:10:uucp:/var/spool/uucp:/usr/sbin/nologin
proxy:13:13:proxy:/bin:/usr/sbin/nologin
www-data:33:33:www-data:/var/www:/usr/sbin/nologin
backup:34:34:backup:/var/backups:/usr/sbin/nologin
list:38:38:Mailing List Manager:/var/list:/usr/sbin/nologin
irc:39:39:ircd:/run/ircd:/usr/sbin/nologin
_apt:42:65534::/nonexistent:/usr/sbin/nologin
nobody:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
BASE_USERS = {
    name: User(name, int(uid), int(gid), home, shell, comment)
    for line in _BASE_USERS.strip().split("\n")
    for name, uid, gid, comment, home, shell in [line.split(":")]
}
"""The same, passwd.master."""

_KNOWN = """
    redis memcache haproxy mosquitto dnsmasq unbound bind knot nsd pdns _chrony sshd postgres
    mysql proftpd ftp squid varnish varnishlog vcache tinyproxy privoxy stunnel4 dovecot
    dovenull postfix postdrop openldap debian-tor prometheus tftp ntpsec turnserver freerad
    freerad-wpa opensmtpd opensmtpq _smtpd _smtpq icecast2 icecast ssl-cert tcpdump nut rabbitmq
    bird etcd Debian-exim uwsgi snmp Debian-snmp zabbix collectd munin nscd strongswan openvpn
    minidlna debian-transmission crontab ssh _ssh messagebus polkitd systemd-network
    systemd-resolve systemd-timesync systemd-journal input sgx kvm render netdev uuidd avahi
    statd _rpc rpc gnats ntp logcheck logrotate syslog nagios icinga grafana elasticsearch
    mongodb influxdb tomcat jetty gitolite git gitea gitlab caddy nginx apache coredns consul
    vault node-exporter prometheus-alertmanager _prometheus docker vde2-net libvirt-qemu libvirt
    libvirtdbus qemu swtpm tss clamav amavis spamd debian-spamd opendkim opendmarc postsrsd
    policyd-spf mailman exim dhcpd _dhcp radvd keepalived_script pgbouncer hacluster haclient
    ceph glance nova keystone rstudio-server kea _kea _kafka zookeeper hadoop _nsd named
    pdns-recursor dnsdist coturn murmur mumble-server teamspeak minetest quassel znc ejabberd
    prosody matrix-synapse inspircd ngircd _ngircd dictd cyrus mlocate plocate lxd lxc-dnsmasq
    puppet chef ansible salt unscd sssd sane saned cups lpadmin colord rtkit pulse geoclue gdm
    lightdm Debian-gdm usbmux whoopsie kernoops tcpwrapped stund asterisk freeswitch fluidsynth
    mpd shairport-sync rsyncd netplan rwhod lirc ulog nfsnobody fetchmail
    debian-security-support backuppc bacula bareos borg restic monit supervisor gunicorn celery
    rygel redsocks i2psvc bitcoin monero ipfs cockpit-ws cockpit-wsinstance pcp sabnzbdplus
    deluge debian-deluged rtorrent _rspamd rspamd vmail dkim-filter greylist sympa slurm munge
    arpwatch snort suricata ossec ntopng redis-sentinel valkey kea-dhcp stunnel xrdp krb5
"""
_FIRST, _FIRST_UNKNOWN, _UNKNOWN = 200, 600, 400
SYSTEM_IDS = {name: _FIRST + number for number, name in enumerate(_KNOWN.split())}
"""Accounts of Debian's servers by name; a new name is appended only, or ids would change."""


def user_id(name: str) -> int:
    """The uid of a package's user: base-passwd's, else that of `SYSTEM_IDS`, else one of 600 to 999
    that follows from the name: the first eight bytes of its SHA-256, modulo 400."""
    return BASE_USERS[name].uid if name in BASE_USERS else _system_id(name)


def group_id(name: str) -> int:
    """The gid of a package's group, likewise; in base-passwd `man` is 6 as user and 12 as group."""
    return BASE_GROUPS[name] if name in BASE_GROUPS else _system_id(name)


def _system_id(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return SYSTEM_IDS.get(name, _FIRST_UNKNOWN + int.from_bytes(digest[:8]) % _UNKNOWN)
