#!/usr/bin/env bash
# Ends this machine when no Ray has run on it for some minutes: a set-up that failed, a worker whose head is gone, a
# Ray that died. Nothing is lost: what a run saved lies in the storage.
#
#     bash cluster/guard.sh start 20       in the background, in place of one that runs; cancels the shutdown that the
#                                          machine was started with (which covers a set-up that never got this far)
#
# The cloud may plan that shutdown after SSH answers, so after our start: it is cancelled again while Ray runs.
set -u
minutes=${2:-20}
shutdown=${WORLDMODEL_SHUTDOWN:-sudo shutdown -h now}
log=~/.worldmodel/guard.log
mkdir -p ~/.worldmodel
cancel() { [ -n "${WORLDMODEL_SHUTDOWN:-}" ] || sudo shutdown -c 2>/dev/null; }

case ${1:-} in
start)
    [ -f ~/.worldmodel/guard.pid ] && kill "$(cat ~/.worldmodel/guard.pid)" 2>/dev/null
    cancel
    setsid nohup bash "$0" watch "$minutes" >>"$log" 2>&1 </dev/null &
    echo $! > ~/.worldmodel/guard.pid
    ;;
watch)
    last=$SECONDS
    while [ $((SECONDS - last)) -lt $((minutes * 60)) ]; do
        if pgrep -x raylet >/dev/null; then
            last=$SECONDS
            [ $SECONDS -gt 7200 ] || cancel    # later ones are a person's own
        fi
        sleep "${WORLDMODEL_GUARD_SECONDS:-15}"
    done
    echo "$(date -u '+%F %T') no Ray for $minutes minutes: $shutdown"
    $shutdown
    ;;
*)
    echo "usage: guard.sh start|watch MINUTES" >&2
    exit 2
    ;;
esac
