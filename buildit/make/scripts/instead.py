"""What stands for the scripts of packages where those are not literal, or do what no rule can."""

from __future__ import annotations

from collections.abc import Mapping

_NOTHING = """
    base-files base-passwd dash debconf libc6 libc-bin login passwd perl-base procps
    sysvinit-utils tzdata udev systemd util-linux
"""
"""What their scripts do belongs to an installed system."""

INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(_NOTHING.split(), ""),
    "bash": "update-alternatives --install /usr/bin/sh sh /usr/bin/bash 1",
    "ca-certificates": "certificates",
    "fontconfig": "mkdir /var/cache/fontconfig",
    "memcached": "adduser --system --group --home /nonexistent --no-create-home memcache",
    "redis-tools": """
        adduser --system --group --home /var/lib/redis --no-create-home redis
        install -d -o redis -g redis -m 0750 /var/lib/redis
        install -d -o redis -g adm -m 2750 /var/log/redis
    """,
    "openssh-server": """
        adduser --system --no-create-home --home /run/sshd --shell /usr/sbin/nologin sshd
        ucf /usr/share/openssh/sshd_config /etc/ssh/sshd_config
        mkdir -p -m 0755 /run/sshd
        keys ssh-keygen -A
    """,
    "postfix": """
        addgroup --system postfix
        adduser --system --home /var/spool/postfix --no-create-home --ingroup postfix postfix
        addgroup --system postdrop
        chown root:postdrop /usr/sbin/postqueue /usr/sbin/postdrop
        chmod 2555 /usr/sbin/postqueue /usr/sbin/postdrop
        cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
        cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
        cp /usr/share/postfix/dynamicmaps.cf /etc/postfix/dynamicmaps.cf
        install -d -o postfix -g root -m 0700 /var/spool/postfix/active /var/spool/postfix/bounce
        install -d -o postfix -g root -m 0700 /var/spool/postfix/corrupt /var/spool/postfix/defer
        install -d -o postfix -g root -m 0700 /var/spool/postfix/deferred /var/spool/postfix/flush
        install -d -o postfix -g root -m 0700 /var/spool/postfix/hold /var/spool/postfix/incoming
        install -d -o postfix -g root -m 0700 /var/spool/postfix/private /var/spool/postfix/saved
        install -d -o postfix -g root -m 0700 /var/spool/postfix/trace
        install -d -o postfix -g postdrop -m 0730 /var/spool/postfix/maildrop
        install -d -o postfix -g postdrop -m 2710 /var/spool/postfix/public
        install -d -o root -g root -m 0755 /var/spool/postfix/pid
        install -d -o postfix -g postfix -m 0755 /var/lib/postfix
        needs main.cf of your own: the name of the host and its domain
    """,
    "postgresql-common": """
        addgroup --system postgres
        adduser --system --home /var/lib/postgresql --no-create-home --ingroup postgres postgres
        install -d -o postgres -g postgres -m 2775 /var/run/postgresql
        install -d -o root -g postgres -m 1775 /var/log/postgresql
        install -d -o postgres -g postgres /var/lib/postgresql
        d=postgresql-common
        ucf /usr/share/$d/createcluster.conf /etc/$d/createcluster.conf
    """,
    "postgresql-15": "needs a cluster: initdb makes it at the first start",
    "mariadb-server": """
        addgroup --system mysql
        adduser --system --home /nonexistent --no-create-home --ingroup mysql mysql
        install -d -o mysql -g mysql -m 0755 /var/lib/mysql /run/mysqld
        install -d -o mysql -g adm -m 2750 /var/log/mysql
        needs its system tables: mariadb-install-db makes them at the first start
    """,
    "mariadb-common": "cp /etc/mysql/mariadb.cnf /etc/mysql/my.cnf",
    "varnish": """
        adduser --system --group --no-create-home --home /nonexistent varnish
        adduser --system --no-create-home --home /nonexistent --ingroup varnish vcache
        adduser --system --no-create-home --home /nonexistent --ingroup varnish varnishlog
        install -d -o vcache -g varnish /var/lib/varnish
        install -d -o varnishlog -g varnish /var/log/varnish
    """,
    "privoxy": """
        adduser --system --home /etc/privoxy --no-create-home --ingroup nogroup privoxy
        ucf /usr/share/privoxy/config /etc/privoxy/config
        chown privoxy:adm /var/log/privoxy
        chmod 750 /var/log/privoxy
    """,
    "proftpd-core": """
        adduser --system --home /run/proftpd --no-create-home --ingroup nogroup proftpd
        adduser --system --home /srv/ftp ftp
        for c in proftpd modules sql ldap tls virtuals sftp geoip snmp; do
            cp /usr/share/proftpd/templates/$c.conf /etc/proftpd/$c.conf
        done
        chmod 600 /etc/proftpd/sql.conf /etc/proftpd/ldap.conf
    """,
    "vsftpd": """
        adduser --system --home /srv/ftp ftp
        mkdir -p /var/run/vsftpd/empty
    """,
    "squid": """
        chown proxy:proxy /var/spool/squid /var/log/squid
        chmod 0750 /var/spool/squid /var/log/squid
    """,
    "apache2": """
        touch /var/log/apache2/access.log /var/log/apache2/error.log
        ln -s ../mods-available/access_compat.load /etc/apache2/mods-enabled/access_compat.load
        ln -s ../mods-available/alias.conf /etc/apache2/mods-enabled/alias.conf
        ln -s ../mods-available/alias.load /etc/apache2/mods-enabled/alias.load
        ln -s ../mods-available/auth_basic.load /etc/apache2/mods-enabled/auth_basic.load
        ln -s ../mods-available/authn_core.load /etc/apache2/mods-enabled/authn_core.load
        ln -s ../mods-available/authn_file.load /etc/apache2/mods-enabled/authn_file.load
        ln -s ../mods-available/authz_core.load /etc/apache2/mods-enabled/authz_core.load
        ln -s ../mods-available/authz_host.load /etc/apache2/mods-enabled/authz_host.load
        ln -s ../mods-available/authz_user.load /etc/apache2/mods-enabled/authz_user.load
        for m in autoindex deflate dir mime negotiation reqtimeout setenvif status; do
            ln -s ../mods-available/$m.conf /etc/apache2/mods-enabled/$m.conf
            ln -s ../mods-available/$m.load /etc/apache2/mods-enabled/$m.load
        done
        for m in env filter; do
            ln -s ../mods-available/$m.load /etc/apache2/mods-enabled/$m.load
        done
        ln -s ../mods-available/mpm_event.conf /etc/apache2/mods-enabled/mpm_event.conf
        ln -s ../mods-available/mpm_event.load /etc/apache2/mods-enabled/mpm_event.load
        ln -s ../sites-available/000-default.conf /etc/apache2/sites-enabled/000-default.conf
        for c in charset localized-error-pages other-vhosts-access-log security serve-cgi-bin; do
            ln -s ../conf-available/$c.conf /etc/apache2/conf-enabled/$c.conf
        done
        mkdir -p /var/www/html
        echo It works! > /var/www/html/index.html
        install -d -o root -g root /var/run/apache2 /var/lock/apache2
        chown root:adm /var/log/apache2
        chmod 0750 /var/log/apache2
        chown www-data:root /var/lock/apache2
    """,
}
"""By package: what is walked instead of its scripts; empty where an image needs nothing of them.
`certificates`, `keys` and `needs` are words of ours: see `_OURS`."""

ROOT: Mapping[str, str] = {
    "xz-utils": """
        for name in cat more less diff cmp grep egrep fgrep; do
            S="$S --slave /usr/bin/lz$name lz$name /usr/bin/xz$name"
        done
        S="--slave /usr/bin/unlzma unlzma /usr/bin/unxz $S"
        update-alternatives --install /usr/bin/lzma lzma /usr/bin/xz 20 $S
    """
}
"""The same where a source is built: there the links of all packages are made."""
