#!/bin/sh
# MariaDB in an image that buildit made: the first start makes the data directory, each start sees to
# the password and becomes the server.
#
#   mariadb start    as root, under the init of the services
#   mariadb ready    0 once the server answers; nobody else answers there while a directory is made
#
# A data directory is made beside its place and moved there when it is whole and written, so a start
# that is killed leaves nothing that counts: the next one begins again. The password goes from its
# file through a pipe to a server without clients: it is in no argument, no environment and no log.
# 78 is what cannot get better by starting again (sysexits.h, EX_CONFIG).

set -eu
umask 077
export LC_ALL=C.UTF-8 TZ=UTC0
unset MYSQL_HOST MYSQL_TCP_PORT MYSQL_UNIX_PORT MYSQL_PWD MYSQL_HOME

ETC=${BUILDIT_ETC:-/etc/buildit}
. "$ETC/database" # NAME USER PASSWORD_FILE PORT DIRECTORY SOCKET ACCOUNT INIT USERS

say() {
    printf 'database: %s\n' "$1" >&2
}

refuse() {
    say "$1"
    exit 78
}

as_owner() {
    s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" "$@"
}

case ${1:-} in
ready) exec mariadb --no-defaults --connect-timeout=5 --socket="$SOCKET" -u root -e "DO 1" 2>/dev/null ;;
start) ;;
*) refuse "expected start or ready, found: ${1:-}" ;;
esac

# 10.11 of "mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for …"
version=$(mariadbd --no-defaults --version 2>/dev/null)
version=${version#*Ver }
major=${version%%.*}
minor=${version#*.}
major=$major.${minor%%.*}
main=$DIRECTORY/$major
new=$main.new

# The processes that work in a directory: a server.
working_in() {
    for process in /proc/[0-9]*; do
        there=$(readlink "$process/cwd" 2>/dev/null) || continue
        [ "$there" != "$1" ] || printf '%s\n' "${process#/proc/}"
    done
}

# A text between quotes of SQL: each quote and backslash has a backslash before it.
literal() {
    rest=$1 quoted=
    while [ -n "$rest" ]; do
        plain=${rest%%[\'\\]*}
        quoted=$quoted$plain
        rest=${rest#"$plain"}
        [ -z "$rest" ] || quoted=$quoted\\${rest%"${rest#?}"}
        rest=${rest#?}
    done
    printf "'%s'" "$quoted"
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
mkdir -p "$DIRECTORY" "${SOCKET%/*}"
chown "$ACCOUNT" "$DIRECTORY" "${SOCKET%/*}"
chmod 0755 "$DIRECTORY" "${SOCKET%/*}"

for other in "$DIRECTORY"/*/ibdata1; do
    [ -e "$other" ] || continue
    found=${other%/ibdata1}
    case $found in *.new) continue ;; esac
    [ "$found" = "$main" ] || [ -e "$main" ] || refuse \
        "$DIRECTORY has data of MariaDB ${found##*/}, and this image has $major: dump it with the image that made it (mariadb-dump --all-databases) and load it into a new volume, or move $found away"
done
[ ! -e "$DIRECTORY/ibdata1" ] || refuse \
    "$DIRECTORY is the data of another image; this one keeps its own in $main: dump that (mariadb-dump --all-databases), and give this image a new volume"
if [ -e "$main" ] && [ ! -e "$main/ibdata1" ]; then
    refuse "$main is no data directory of MariaDB: it has no ibdata1"
fi

SERVER="--defaults-file=$ETC/mariadb.cnf"

# Statements for a server without clients, users and logs.
bootstrap() {
    as_owner mariadbd "$SERVER" --datadir="$1" --bootstrap --skip-networking --skip-log-bin --general-log=0 \
        --slow-query-log=0 --log-error= --log-warnings=0 --sql-mode= --plugin-load-add= >/dev/null
}

fresh() {
    say "making a new data directory of MariaDB $major in $main"
    for process in $(working_in "$new"); do
        kill -9 "$process" 2>/dev/null || true
    done
    while [ -n "$(working_in "$new")" ]; do
        sleep 0.1
    done
    rm -rf "$new"
    as_owner mkdir -p "$new"
    as_owner mariadb-install-db --defaults-file="$ETC/mariadb.cnf" --datadir="$new" \
        --auth-root-authentication-method=socket --auth-root-socket-user=root --skip-test-db --skip-name-resolve \
        --cross-bootstrap >/dev/null || refuse "mariadb-install-db failed; its own words are above"
    {
        printf 'FLUSH PRIVILEGES;\n'
        printf 'CREATE DATABASE `%s` CHARACTER SET utf8mb4;\n' "$NAME"
    } | bootstrap "$new" || refuse "the database could not be made; the server's own words are above"
    if [ -n "$INIT" ]; then
        s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" mariadbd "$SERVER" --datadir="$new" --skip-networking --socket="$new/alone.sock" \
            --pid-file="$new/alone.pid" --skip-log-bin --general-log=0 &
        server=$!
        until mariadb --no-defaults --socket="$new/alone.sock" -u root -e "DO 1" 2>/dev/null; do
            kill -0 "$server" 2>/dev/null || refuse "the server of the new data directory ended"
            sleep 0.1
        done
        for file in $INIT; do
            say "reading ${file##*/}"
            mariadb --no-defaults --socket="$new/alone.sock" -u root "$NAME" <"$file" ||
                refuse "$file failed; the server's own words are above"
        done
        kill "$server"
        wait "$server" || refuse "the server of the new data directory did not end well"
        rm -f "$new/alone.sock" "$new/alone.pid"
    fi
    sync -f "$new"
    mv "$new" "$main"
    sync -f "$DIRECTORY"
    say "the new data directory is there"
}

[ -e "$main" ] || fresh

patience=600
while [ -n "$(working_in "$main")" ]; do
    [ $patience -gt 0 ] || refuse "another server works in $main"
    patience=$((patience - 1))
    sleep 0.1
done

# Its users, and the password of today.
how="IDENTIFIED VIA unix_socket"
[ -z "$password" ] || how="IDENTIFIED BY $(literal "$password")"
{
    printf 'FLUSH PRIVILEGES;\n'
    for user in $USERS; do
        printf "CREATE USER IF NOT EXISTS '%s'@'%s';\n" "${user%@*}" "${user#*@}"
        printf "ALTER USER '%s'@'%s' %s;\n" "${user%@*}" "${user#*@}" "$how"
        printf "GRANT ALL ON \`%s\`.* TO '%s'@'%s';\n" "$NAME" "${user%@*}" "${user#*@}"
    done
} | bootstrap "$main" || refuse "the users of '$NAME' could not be given the password; the server's own words are above"
unset password how

exec s6-applyuidgid -u "${ACCOUNT%:*}" -g "${ACCOUNT#*:}" -G "" mariadbd "$SERVER" --datadir="$main"
