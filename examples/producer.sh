#!/bin/sh
# A producer for KQS in POSIX shell: producer.sh HOST PORT TYPE. Each line of stdin is the data of a job, as JSON.
# Prints the id of each that is kept, or `refused: CODE`. Needs jq, and the nc of OpenBSD for its -N.
set -u
host=$1 port=$2 type=$(jq -n --arg type "$3" '$type')
id=0 backoff=2 nc='' status=0
name=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ') # no other run of this program makes the same ids
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
trap '' PIPE

pause() { # longer each time, up to 5 s, until the server has kept a job again
    sleep "$((backoff / 10)).$((backoff % 10))"
    backoff=$((backoff < 25 ? backoff * 2 : 50))
}

connect() {
    [ -z "$nc" ] || { kill -9 "$nc"; exec 3>&- 4<&-; pause; } 2>/dev/null
    rm -f "$dir/in" "$dir/out" && mkfifo "$dir/in" "$dir/out" # new ones: the old may hold what was not sent
    nc -N "$host" "$port" <"$dir/in" >"$dir/out" 2>/dev/null &
    nc=$!
    exec 3>"$dir/in" 4<"$dir/out"
    # when the server closes, nc only ends at the next write: an empty line is nothing to a server
    (while sleep 1 && kill -0 $$; do mkdir "$dir/busy" && { echo; sent=$?; rmdir "$dir/busy"; [ "$sent" = 0 ] || break; }; done) >&3 2>/dev/null 4<&- &
}

call() { # NAME ARGUMENT: 0: it was done; 1: refused, for the reason in $code; 2: the connection is lost
    code='' answer=''
    until mkdir "$dir/busy" 2>/dev/null; do sleep 0.1; done # a long line takes several writes, and nothing may come between
    printf '{"id":%d,"n":"%s","m":%s}\n' "$id" "$1" "$2" 2>/dev/null >&3; sent=$?
    rmdir "$dir/busy" && [ "$sent" = 0 ] || return 2
    IFS= read -r answer <&4 || return 2 # what ends without a newline is no line
    code=$(printf %s "$answer" | jq -r '.e.code // empty')
    [ -z "$code" ]
}

insert() { # DATA: under an id of our own, so that it may be repeated until it is answered
    id=$((id + 1))
    job="{\"type\":$type,\"id\":\"$name-$id\",\"data\":$1,\"wait\":0}"
    until call insert "$job"; do
        case $code in
            '') connect ;;
            busy | draining | no_space | journal_failed | internal) pause ;;
            *) echo "refused: $code"; status=1; return ;;
        esac
    done
    backoff=2
    echo "$name-$id"
}

connect
while IFS= read -r data || [ -n "$data" ]; do
    [ -z "$data" ] || insert "$data"
done
exit "$status"
