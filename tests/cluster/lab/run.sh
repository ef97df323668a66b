#!/usr/bin/env bash
# run.sh COMMAND...: runs a command in network, process and mount namespaces of its own. Whatever ends it ends every
# host, process and link that it made, and nothing in it can reach another machine. Where the kernel or the user's
# rights do not allow that, the command runs as it is, and the tests that need it skip.
set -euo pipefail
isolate=(unshare --net --ipc --mount --pid --fork --kill-child --mount-proc)
if "${isolate[@]}" true 2>/dev/null; then
    WORLDMODEL_LAB=isolated exec "${isolate[@]}" "$@"
fi
exec "$@"
