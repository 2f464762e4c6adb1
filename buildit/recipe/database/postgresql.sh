#!/bin/sh
# PostgreSQL in an image that buildit made: the first start makes the cluster, each start sees to the
# password and becomes the server.
#
#   postgresql start    as root, under the init of the services
#   postgresql ready    0 once the server answers; nobody else answers there while a cluster is made
#
# The password goes from its file through pipes: it is in no argument and no environment, and the
# server's log has no statement of it.

unset PGHOST PGPORT PGDATABASE PGUSER PGPASSFILE PGPASSWORD PGSERVICE PGOPTIONS
. /usr/lib/buildit/database.sh

ETC=/etc/buildit
verb=${1:-}
set -- /usr/lib/postgresql/*/bin/postgres
[ $# -eq 1 ] && [ -x "$1" ] || refuse "the image has not one server of PostgreSQL, but: $*"
bin=${1%/postgres}
major=${bin#/usr/lib/postgresql/}
major=${major%/bin}
main=$DIRECTORY/$major/main
new=$main.new

case $verb in
ready) exec "$bin/pg_isready" -q -h "$SOCKET" -p "$PORT" -d "$NAME" -U "$USER" ;;
start) ;;
*) refuse "expected start or ready, found: $verb" ;;
esac

# A text between quotes of SQL, with standard_conforming_strings.
literal() {
    rest=$1 quoted=
    while [ "${rest#*\'}" != "$rest" ]; do
        quoted=$quoted${rest%%\'*}\'\'
        rest=${rest#*\'}
    done
    printf "'%s%s'" "$quoted" "$rest"
}

read_password
own_directories "$DIRECTORY" "$SOCKET"

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
        -c "config_file=$ETC/postgresql.conf" -c "hba_file=$new/alone.hba" \
        -c listen_addresses= -c "unix_socket_directories=$new" -c unix_socket_permissions=0700 \
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
    clear_away "$new"
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
    put_in_place "$new" "$main"
    say "the new cluster is there"
}

[ -e "$main" ] || fresh

wait_for "$main"

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
