#!/bin/sh
# A worker for KQS in POSIX shell, one job at a time: worker.sh HOST PORT. Needs jq, and the nc of OpenBSD for its -N.
# Put types of your own into `types` and `work`; the rest keeps the rules of docs/write-a-client.md.
set -u
host=$1 port=$2 types='["echo","sleep","fail"]'
id=0 backoff=2 stopping='' interrupted='' nc=''
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
trap 'stopping=1 interrupted=1' TERM INT
trap '' PIPE

work() { # TYPE: data on stdin, JSON on stdout; a status that is not 0 fails with what is on stderr. It is stopped by a kill.
    case $1 in
        echo) exec cat ;;
        sleep) exec sleep "$(jq .s)" ;;
        fail) jq -r .reason >&2 && exit 1 ;;
    esac
}

pause() { # longer each time, up to 5 s, until the server has done something for us again
    sleep "$((backoff / 10)).$((backoff % 10))"
    backoff=$((backoff < 25 ? backoff * 2 : 50))
}

connect() { # nc ends at our end, so that our run goes back at once; SIGTERM is not for it, but for us
    [ -z "$nc" ] || { kill -9 "$nc"; exec 3>&- 4<&-; pause; } 2>/dev/null
    rm -f "$dir/in" "$dir/out" && mkfifo "$dir/in" "$dir/out" # new ones: the old may hold what was not sent
    (trap '' TERM INT; exec nc -N "$host" "$port" <"$dir/in" >"$dir/out" 2>/dev/null) &
    nc=$!
    exec 3>"$dir/in" 4<"$dir/out"
    # when the server closes, nc only ends at the next write: an empty line is nothing to a server
    (trap '' TERM INT; while sleep 1 && kill -0 $$; do mkdir "$dir/busy" && { echo; sent=$?; rmdir "$dir/busy"; [ "$sent" = 0 ] || break; }; done) >&3 2>/dev/null 4<&- &
}

call() { # NAME ARGUMENT: 0: $answer is the result; 1: refused, for the reason in $code; 2: the connection is lost
    id=$((id + 1)) line='' part='' code=''
    until mkdir "$dir/busy" 2>/dev/null; do sleep 0.1; done # a long line takes several writes, and nothing may come between
    printf '{"id":%d,"n":"%s","m":%s}\n' "$id" "$1" "$2" 2>/dev/null >&3; sent=$?
    rmdir "$dir/busy" && [ "$sent" = 0 ] || return 2
    until IFS= read -r part <&4; do # ended without a newline: by a signal, or the connection is lost and this is no line
        [ -n "$interrupted" ] || return 2
        line=$line$part interrupted=''
    done
    line=$line$part
    code=$(printf %s "$line" | jq -r '.e.code // empty')
    answer=$(printf %s "$line" | jq -c .m)
    [ -z "$code" ]
}

run_job() { # RUN: do it, and report
    token=$(printf %s "$1" | jq -c .run) type=$(printf %s "$1" | jq -r .type)
    ticks=$(printf %s "$1" | jq '.ttr * 10 / 3 | floor') tick=0
    printf %s "$1" | jq -c .data | work "$type" >"$dir/result" 2>"$dir/reason" 3>&- 4<&- &
    pid=$! end=''
    while sleep 0.1 && kill -0 "$pid" 2>/dev/null; do
        tick=$((tick + 1))
        [ "$tick" -ge "$ticks" ] && tick=0 || continue
        call touch "{\"run\":$token}" && [ "$(printf %s "$answer" | jq .cancel)" = false ] && continue
        case $code in '' | stale) kill "$pid" && return ;; esac # the run is over: stale, cancelled, or lost with the connection
    done
    if wait "$pid" && end=$(jq -cs '.[0]' "$dir/result" 2>"$dir/reason"); then
        report="{\"run\":$token,\"report\":\"ok\",\"result\":$end}"
    else
        report=$(jq -cRs --argjson run "$token" '{$run, report: "fail", reason: rtrimstr("\n")}' "$dir/reason")
    fi
    until call finish "$report"; do # repeated until it is taken, which is safe: as a failure if nobody takes its result
        case $code in stale) return ;; bad_call | bad_json | too_large) [ -n "$end" ] || return; end='' report="{\"run\":$token,\"report\":\"fail\",\"reason\":\"$code\"}" ;; esac
        [ -z "$stopping" ] || [ "$backoff" -lt 50 ] || { echo "nobody takes the report of $token" >&2 && exit 1; }
        if [ -n "$code" ]; then pause; else connect; fi
    done
}

connect
while [ -z "$stopping" ]; do
    if call reserve "{\"types\":$types,\"wait\":2,\"worker\":\"shell-$$\"}"; then
        [ "$answer" = '[]' ] && continue
        backoff=2 run=$(printf %s "$answer" | jq -c '.[0]')
        if [ -z "$stopping" ]; then run_job "$run"; else call release "$(printf %s "$run" | jq -c '{run, begun: false}')"; fi
    elif [ -n "$code" ]; then pause; else connect; fi
done
