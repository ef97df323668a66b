#!/usr/bin/env bash
# Waits until this machine's GPU driver answers, which some images install while they start.
#
#     bash cluster/wait_for_driver.sh 900      seconds; fails after that
seconds=${1:-900}
end=$((SECONDS + seconds))
until nvidia-smi >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
        echo "error: nvidia-smi has not answered for $seconds seconds: this machine image has no driver for its GPU" >&2
        exit 2
    fi
    sleep 5
done
nvidia-smi -L
