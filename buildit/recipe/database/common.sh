# What the databases of images that buildit made have in common; their scripts read it.
#
# A database is made beside its place and moved there when it is whole and written, so a start that is
# killed leaves nothing that counts: the next one begins again. 78 is what cannot get better by
# starting again (sysexits.h, EX_CONFIG).

set -eu
umask 077
export LC_ALL=C.UTF-8 TZ=UTC0

. /etc/buildit/database # NAME USER PASSWORD_FILE PORT DIRECTORY SOCKET ACCOUNT INIT USERS

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

# The processes that work in a directory: a server, and what it left behind.
working_in() {
    for process in /proc/[0-9]*; do
        there=$(readlink "$process/cwd" 2>/dev/null) || continue
        [ "$there" != "$1" ] || printf '%s\n' "${process#/proc/}"
    done
}

# The processes of the account that runs the server.
of_owner() {
    for process in /proc/[0-9]*; do
        [ "$(stat -c %u "$process" 2>/dev/null)" != "${ACCOUNT%:*}" ] || printf '%s\n' "${process#/proc/}"
    done
}

# End what a start that was killed left at work, wherever it works, and remove what it made.
clear_away() {
    patience=100
    while [ -e "$1" ] || [ -n "$(of_owner)" ]; do
        [ $patience -gt 0 ] || refuse "what an earlier start left in $1 cannot be removed"
        patience=$((patience - 1))
        for process in $(of_owner); do
            kill -9 "$process" 2>/dev/null || true
        done
        rm -rf "$1" 2>/dev/null || sleep 0.1
    done
}

# What a server that was killed left behind ends by itself; a new one may not begin before.
wait_for() {
    patience=600
    while [ -n "$(working_in "$1")" ]; do
        [ $patience -gt 0 ] || refuse "another server works in $1"
        patience=$((patience - 1))
        sleep 0.1
    done
}

# $password, of the secret's file; empty where there is no secret.
read_password() {
    password=
    [ -n "$PASSWORD_FILE" ] || return 0
    secret=${PASSWORD_FILE##*/}
    [ -r "$PASSWORD_FILE" ] && [ -f "$PASSWORD_FILE" ] || refuse \
        "the secret '$secret' is missing: give the container the file $PASSWORD_FILE (podman run --secret $secret …)"
    password=$(cat "$PASSWORD_FILE" && echo .)
    password=${password%.}
    password=${password%"
"}
    case $password in
    '') refuse "the secret '$secret' is empty: $PASSWORD_FILE" ;;
    *"
"*) refuse "the secret '$secret' has several lines, and a password is one: $PASSWORD_FILE" ;;
    esac
}

# The volume and the directory of the socket, which may be new and root's.
own_directories() {
    [ "$(id -u)" = 0 ] || refuse "the database is started as root, which then becomes $ACCOUNT: run the container as root"
    mkdir -p "$@"
    chown "$ACCOUNT" "$@"
    chmod 0755 "$@"
}

# Moves what is made to its place, whole.
put_in_place() {
    sync -f "$1"
    mv "$1" "$2"
    sync -f "${2%/*}"
}
