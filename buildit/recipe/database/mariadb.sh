#!/bin/sh
# MariaDB in an image that buildit made: the first start makes the data directory, each start sees to
# the password and becomes the server.
#
#   mariadb start    as root, under the init of the services
#   mariadb ready    0 once the server answers; nobody else answers there while a directory is made
#
# The password goes from its file through a pipe to a server without clients: it is in no argument, no
# environment and no log.

unset MYSQL_HOST MYSQL_TCP_PORT MYSQL_UNIX_PORT MYSQL_PWD MYSQL_HOME
. /usr/lib/buildit/database.sh

ETC=/etc/buildit

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

read_password
own_directories "$DIRECTORY" "${SOCKET%/*}"

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
    clear_away "$new"
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
    put_in_place "$new" "$main"
    say "the new data directory is there"
}

[ -e "$main" ] || fresh

wait_for "$main"

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
