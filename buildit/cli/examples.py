"""An example of every key of the user's files, by the name of its model; `docs/formats.md` shows
them, and a test reads each with its model."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {
    "StepSpec": """\
- vars: {author: me, name: web, version: "{{ packages['www-servers/nginx'].version }}-p1"}
- package: {atom: www-servers/nginx}
- sync: {src: ./files/nginx.conf, dest: /etc/nginx/nginx.conf}
- use: [ipv6, -selinux]
- users: {web: {uid: 101, gid: 101}}
- groups: {web: {gid: 101}}
- app: {exec: [/usr/sbin/nginx, -g, daemon off;], ports: [443]}
- env: {TZ: UTC, discovery.type: single-node}
- user: web
- labels: {org.opencontainers.image.source: "https://example.org/web.git"}
- annotations: {org.opencontainers.image.revision: 1f0e9ab}
- healthcheck: {exec: [/usr/bin/curl, -f, "http://localhost/"], interval: 30s}
- directories: [{path: /var/cache/web, owner: web, mode: 0700}]
- image: {type: oci}
""",
    "AppSpec": """\
exec: [/usr/sbin/nginx, -g, daemon off;]
user: web
group: web
environment: {LANG: C.UTF-8, EMPTY: ""}
working-directory: /srv
ports: [443, 8080/tcp, https=8443/tcp]
volumes: [/var/lib/web, "tls=/etc/nginx/tls:ro"]
stop-signal: SIGQUIT
""",
    "AtomPackageStep": """\
atom: www-servers/nginx-1.22.1
""",
    "DirectorySpec": """\
path: /var/tmp
owner: web:web
mode: 01777
""",
    "EmbeddedPackageStep": """\
type: embedded
path: ./pkgs/nginx
""",
    "GroupSpec": """\
gid: 101
members: [web, backup]
""",
    "HealthSpec": """\
exec: [/usr/bin/curl, -f, "http://localhost/"]
interval: 30s
timeout: 5s
retries: 3
start: 1m
""",
    "ImageSpec": """\
- {type: oci, compress: gzip}
- type: aci
  content: |
    {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "{{ name }}",
     "app": {"exec": ["/usr/sbin/nginx"], "user": "0", "group": "0"}}
""",
    "SyncSpec": """\
src: ./files/html
dest: /srv/www
recursive: on
chmod: 0644
dirmode: 0755
owner: web:web
exclude: [drafts/**, "**/*.bak"]
""",
    "UseSpec": """\
flags: [ipv6, tls=openssl]
packages: {www-servers/nginx: [-selinux]}
""",
    "UserSpec": """\
uid: 101
gid: 101
home: /var/lib/web
shell: /usr/sbin/nologin
comment: The web server
""",
    "EmbeddedPackage": """\
base: www-servers/nginx-1.22.1
version: 1.22.1
""",
    "ConditionalAtom": """\
when: ssl
atom: dev-libs/openssl
""",
    "ConditionalItem": """\
when: ssl && !gnutls
then: [--with-http_ssl_module, --with-openssl]
""",
    "Depends": """\
build: [debian:perl]
link: [dev-libs/pcre2, {when: ssl, atom: ">=dev-libs/openssl-3.0"}]
run: [sys-apps/baselayout]
""",
    "FileRule": """\
path: usr/bin/ping
mode: 04755
owner: "0:0"
capabilities: [cap_net_raw=ep]
""",
    "FlagSpec": """\
- {default: on, description: Listen on IPv6 sockets}
- {default: openssl, description: Which library speaks TLS, choices: [openssl, gnutls]}
""",
    "OutputSpec": """\
paths: [usr/bin/*-config]
optional: yes
""",
    "PatchSpec": """\
description: Fix buffer overruns
sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
strip: 1
when: ssl
fixes: [CVE-2023-44487]
upstream: https://example.org/commit/1f0e9ab
""",
    "SignatureSpec": """\
url: https://example.org/nginx-1.22.1.tar.gz.asc
mirrors: [mirror://example/nginx-1.22.1.tar.gz.asc]
keys: [keys/release.asc]
""",
    "Steps": """\
prepare: autoreconf -fi
configure: ./configure "$@"
compile: make -j "$JOBS"
check: make check
install: make install DESTDIR="$DESTDIR"
""",
    "Waiver": """\
check: missing-provider
path: usr/lib/web/plugins/*.so
reason: The program itself brings what they load.
""",
    "UseChoice": """\
with: [ipv6, tls=openssl]
without: [selinux]
""",
    "ToolchainPackage": """\
description: GCC of Debian 12
style: toolchain
debian: {suites: [bookworm], packages: [gcc, libc6-dev, make]}
""",
    "ToolchainDebian": """\
suites: [bookworm, bookworm-security]
packages: [gcc, libc6-dev, make]
run: {libc6: [libgcc-s1]}
""",
    "TrustRuleSpec": """\
match: www-servers/*
need: 2
""",
    "TrustSpec": """\
allowed-signers: ./allowed-signers
packages: [{match: "*/*", need: 1}]
""",
    "ConfigUseSpec": """\
flags: [ipv6]
packages: {www-servers/nginx: [-selinux]}
""",
    "DebianPackageStep": """\
debian: curl=7.88.1-10+deb12u12
closure: depends
without: [usr/share/doc/**]
""",
    "SourceSpec": """\
- url: https://example.org/nginx-1.22.1.tar.gz
  mirrors: [mirror://example/nginx-1.22.1.tar.gz]
  sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  strip: 1
  exclude: [tests/**]
  directory: third-party/nginx
  signature: {url: "https://example.org/nginx-1.22.1.tar.gz.asc", keys: [keys/release.asc]}
- url: https://example.org/data?version=3
  sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  name: data.bin
  unpack: no
""",
    "Recipe": """\
description: HTTP and reverse proxy server
homepage: https://example.org
license: BSD-2-Clause
author: me
toolchain: toolchain/debian-12
sources:
  - url: https://example.org/nginx-1.22.1.tar.gz
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
patches: {patches/https-only.patch: Deny plain http}
use:
  ipv6: {default: on, description: Listen on IPv6 sockets}
  ssl: {default: on, description: TLS through OpenSSL}
required-use: [{any-of: [ipv6, ssl]}]
depends:
  build: [debian:perl]
  link: [dev-libs/pcre2, {when: ssl, atom: dev-libs/openssl}]
style: autotools
configure: [--prefix=/usr, {when: ssl, then: --with-http_ssl_module}]
environment: {CFLAGS: -O2}
steps: {check: make test}
fakeroot: no
outputs: {runtime: [usr/bin/*-config]}
files: [{path: usr/sbin/nginx, mode: 0755}]
strip: yes
users: {web: {uid: 101, gid: 101}}
groups: {web: {gid: 101}}
waivers: [{check: missing-provider, path: usr/lib/web/*.so, reason: Plugins}]
""",
    "TreePackage": """\
versions:
  1.22.1:
    sources:
      - url: https://example.org/nginx-1.22.1.tar.gz
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
""",
    "ConfigSpec": """\
- repository: {name: ours, upload-type: ssh, upload-path: user@example.org/binhost}
- repositories: [{name: theirs, download-type: https, download-path: example.org/binhost}]
  mirrors: {debian: ["https://example.org/debian/"]}
  trust: {allowed-signers: ./allowed-signers}
  signing-key: ~/.ssh/id_ed25519
  store: /var/cache/buildit
  use: [ipv6]
  jobs: 4
  trees: [./pkgs]
  limits: {memory: 4G}
""",
    "LimitsSpec": """\
memory: 4G
processes: 512
time: 2h
log: 64M
disk: 20G
installed: 4G
files: 100000
""",
    "RepositorySpec": """\
name: ours
upload-type: ssh
upload-path: user@example.org/binhost
download-type: https
download-path: example.org/binhost
unsigned: no
secrets: no
allowed-signers: ./signers-of-ours
""",
}
