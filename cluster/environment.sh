# Sourced on a cluster's machine before Ray is started there: jobs inherit what stands here.
#
#     cd ~/worldmodel && . cluster/environment.sh head && ray start ...
#
# Every machine takes part with the one token that `ray up` brought from the laptop, or not at all: without a token Ray
# would start open.

if [ ! -s "$HOME/.ray/auth_token" ]; then
    echo "error: $HOME/.ray/auth_token is missing: on the laptop, ray get-auth-token --generate; then ray up again" >&2
    return 2
fi
chmod 600 "$HOME/.ray/auth_token"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# A stopped job may take this long to save its checkpoints; Ray's own three seconds would kill a large model.
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-60}"
if [ -x .venv/bin/python ]; then
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
fi
[ ! -d "$HOME/.ray/tls" ] || . cluster/tls.sh || return 2
# Several workers talk through Gloo, which takes the address of the machine's own name: on Debian and Ubuntu 127.0.1.1.
WORLDMODEL_LINK=$(ip -o route get "${RAY_HEAD_IP:-192.0.2.1}" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
[ -z "$WORLDMODEL_LINK" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$WORLDMODEL_LINK}"
bash cluster/mps.sh
python -m cluster.notice start    # the cloud's word that it takes this machine away
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
if [ "${1:-}" = head ]; then
    WORLDMODEL_EXPORTS=$(python -m cluster.settings) || return 2
    eval "$WORLDMODEL_EXPORTS"
    unset WORLDMODEL_EXPORTS
    # A machine that vanishes is known to be lost after 15 s (three checks of 4 s, 1 s apart), not after a minute. Each
    # check may take 4 s, and three must fail in a row, so that a machine that is busy or short of memory stays.
    export RAY_health_check_initial_delay_ms=5000 RAY_health_check_period_ms=1000
    export RAY_health_check_timeout_ms=4000 RAY_health_check_failure_threshold=3
fi
