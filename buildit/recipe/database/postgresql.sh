#!/bin/sh
# PostgreSQL in an image that buildit made: the first start makes the cluster, each start sees to the
# password and becomes the server.
#
#   postgresql start    as root, under the init of the services
#   postgresql ready    0 once the server answers; nobody else answers there while a cluster is made
#
# A cluster is made beside its place and moved there when it is whole and written, so a start that is
# killed leaves nothing that counts: the next one begins again. The password goes from its file
# through pipes: it is in no argument and no environment, and the server's log has no statement of it.
# 78 is what cannot get better by starting again (sysexits.h, EX_CONFIG).

set -eu
umask 077
export LC_ALL=C.UTF-8 TZ=UTC0
unset PGHOST PGPORT PGDATABASE PGUSER PGPASSFILE PGPASSWORD PGSERVICE PGOPTIONS

ETC=${BUILDIT_ETC:-/etc/buildit}
. "$ETC/database" # NAME USER PASSWORD_FILE PORT DIRECTORY SOCKET ACCOUNT INIT

say() {
    printf 'database: %s\n' "$1" >&2
}

refuse() {
    say "$1"
    exit 78
}

set -- "${1:-}" /usr/lib/postgresql/*/bin/postgres
[ $# -eq 2 ] && [ -x "$2" ] || refuse "the image has not one PostgreSQL in /usr/lib/postgresql, but: ${*#?}"
bin=${2%/postgres}
major=${bin#/usr/lib/postgresql/}
major=${major%/bin}
main=$DIRECTORY/$major/main
new=$main.new

case $1 in
ready) exec "$bin/pg_isready" -q -h "$SOCKET" -p "$PORT" -d "$NAME" -U "$USER" ;;
start) ;;
*) refuse "expected start or ready, found: $1" ;;
esac

as_owner() {
    s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" "$@"
}

# The processes that work in a directory: a server, and what it left behind.
working_in() {
    for process in /proc/[0-9]*; do
        there=$(readlink "$process/cwd" 2>/dev/null) || continue
        [ "$there" != "$1" ] || printf '%s\n' "${process#/proc/}"
    done
}

# A text between quotes of SQL, with standard_conforming_strings.
literal() {
    rest=$1 quoted=
    while [ "${rest#*\'}" != "$rest" ]; do
        quoted=$quoted${rest%%\'*}\'\'
        rest=${rest#*\'}
    done
    printf "'%s%s'" "$quoted" "$rest"
}

password=
if [ -n "$PASSWORD_FILE" ]; then
    secret=${PASSWORD_FILE##*/}
    [ -r "$PASSWORD_FILE" ] && [ -f "$PASSWORD_FILE" ] || refuse \
        "the secret '$secret' is missing: give the container the file $PASSWORD_FILE (podman run --secret $secret …)"
    password=$(LC_ALL=C cat "$PASSWORD_FILE" && echo .)
    password=${password%.}
    password=${password%"
"}
    case $password in
    '') refuse "the secret '$secret' is empty: $PASSWORD_FILE" ;;
    *"
"*) refuse "the secret '$secret' has several lines, and a password is one: $PASSWORD_FILE" ;;
    esac
fi

[ "$(id -u)" = 0 ] || refuse "the database is started as root, which then becomes $ACCOUNT: run the container as root"
mkdir -p "$DIRECTORY" "$SOCKET"
chown "$ACCOUNT" "$DIRECTORY" "$SOCKET"
chmod 0755 "$DIRECTORY" "$SOCKET"

for other in "$DIRECTORY"/*/main/PG_VERSION; do
    [ -e "$other" ] || continue
    found=${other%/main/PG_VERSION}
    [ "$found" = "$DIRECTORY/$major" ] || [ -e "$main" ] || refuse \
        "$DIRECTORY has a cluster of PostgreSQL ${found##*/}, and this image has $major: dump it with the image that made it (pg_dumpall) and load it into a new volume, or move ${other%/PG_VERSION} away"
done
for other in "$DIRECTORY" "$DIRECTORY/data" "$DIRECTORY/pgdata"; do
    [ ! -e "$other/PG_VERSION" ] || refuse \
        "$other is a cluster that another image made; this one keeps its own in $main: dump that (pg_dumpall), and give this image a new volume"
done
if [ -e "$main" ] && [ "$(cat "$main/PG_VERSION" 2>/dev/null)" != "$major" ]; then
    refuse "$main is no cluster of PostgreSQL $major: its PG_VERSION says '$(cat "$main/PG_VERSION" 2>/dev/null)'"
fi

# A server without a way in but a socket of its own; all that reach it are let in.
alone() {
    s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" "$bin/postgres" -D "$new" \
        -c "config_file=$ETC/postgresql.conf" -c "hba_file=$new/alone.hba" -c listen_addresses= -c "unix_socket_directories=$new" -c unix_socket_permissions=0700 \
        -c log_statement=none -c log_min_messages=fatal &
    server=$!
    until as_owner "$bin/pg_isready" -q -h "$new" -p "$PORT"; do
        kill -0 "$server" 2>/dev/null || refuse "the new cluster's server ended"
        sleep 0.1
    done
}

ask_alone() {
    as_owner "$bin/psql" -X -q -h "$new" -p "$PORT" -v ON_ERROR_STOP=1 "$@"
}

fresh() {
    say "making a new cluster of PostgreSQL $major in $main"
    for process in $(working_in "$new"); do
        kill -9 "$process" 2>/dev/null || true
    done
    while [ -n "$(working_in "$new")" ]; do
        sleep 0.1
    done
    rm -rf "$new"
    as_owner mkdir -p "$new"
    as_owner "$bin/initdb" --pgdata "$new" --username postgres --encoding UTF8 --locale C.UTF-8 \
        --data-checksums --auth-local peer --auth-host scram-sha-256 --no-instructions >/dev/null ||
        refuse "initdb failed; its own words are above"
    printf 'local all all trust\n' | as_owner tee "$new/alone.hba" >/dev/null
    alone
    printf 'CREATE ROLE "%s" LOGIN;\nCREATE DATABASE "%s" OWNER "%s";\n' "$USER" "$NAME" "$USER" |
        ask_alone -U postgres -d postgres ||
        refuse "the database could not be made; the server's own words are above"
    for file in $INIT; do
        say "reading ${file##*/}"
        ask_alone -U "$USER" -d "$NAME" -1 -f - <"$file" || refuse "$file failed; the server's own words are above"
    done
    kill -INT "$server"
    wait "$server" || refuse "the new cluster's server did not end well"
    rm "$new/alone.hba"
    sync -f "$new"
    mv "$new" "$main"
    sync -f "$DIRECTORY/$major"
    say "the new cluster is there"
}

[ -e "$main" ] || fresh

# What a server that was killed left behind ends by itself; a new one may not begin before.
patience=600
while [ -n "$(working_in "$main")" ]; do
    [ $patience -gt 0 ] || refuse "another server works in $main"
    patience=$((patience - 1))
    sleep 0.1
done

# Its user, and the password of today: to a server without clients, whose log has no statements.
statement="ALTER ROLE \"$USER\" LOGIN"
[ -z "$password" ] || statement="$statement PASSWORD $(literal "$password")"
printf '%s\n' "$statement" |
    as_owner "$bin/postgres" --single -D "$main" -c "config_file=$ETC/postgresql.conf" -c exit_on_error=on \
        -c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1 -c log_duration=off -c log_checkpoints=off \
        -c shared_preload_libraries= -c session_preload_libraries= -c local_preload_libraries= -c archive_mode=off \
        -c password_encryption=scram-sha-256 -c standard_conforming_strings=on -c log_min_messages=warning \
        "$NAME" >/dev/null ||
    refuse "the user '$USER' of the database '$NAME' could not be given the password; the server's own words are above"
unset password statement

exec s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" \
    "$bin/postgres" -D "$main" -c "config_file=$ETC/postgresql.conf"
