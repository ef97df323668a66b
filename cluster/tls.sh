# TLS for what Ray's processes say to each other, off by default. On the laptop, once; then name the folder in the YAML:
#
#     bash cluster/tls.sh make                  makes an authority of your own in ~/.ray/tls, for a year
#     file_mounts: {~/.ray/tls: ~/.ray/tls}     one line more in the cluster's YAML
#
# cluster/environment.sh sources this file on each machine: it makes the machine a certificate and sets Ray's variables.
# Limits: it covers Ray's gRPC (tasks, objects, the token with them), not torch's gradients and not the dashboard's HTTP.
# Every machine has the authority's key, so it guards against the network and not against a machine of the cluster.

(
    umask 077
    authority=~/.ray/tls machine=~/.worldmodel/tls
    new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@" 2>/dev/null; }
    if [ "${1:-}" = make ]; then
        mkdir -p "$authority"
        [ -s "$authority/ca.key" ] ||
            new -subj /CN=worldmodel -x509 -days 365 -keyout "$authority/ca.key" -out "$authority/ca.crt"
        exit
    fi
    if [ ! -s "$authority/ca.key" ] || [ ! -s "$authority/ca.crt" ]; then
        echo "error: $authority lacks ca.key or ca.crt: on the laptop, bash cluster/tls.sh make" >&2
        exit 1
    fi
    mkdir -p "$machine"
    names=DNS:localhost addresses=$(ip -o addr 2>/dev/null | awk '{sub("/.*", "", $4); print $4}')
    for address in ${addresses:-127.0.0.1 $(hostname -I)}; do names="$names,IP:$address"; done
    new -subj "/CN=$(hostname)" -addext "subjectAltName=$names" -keyout "$machine/tls.key" -out "$machine/tls.csr" &&
        openssl x509 -req -in "$machine/tls.csr" -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -days 365 \
            -set_serial "0x$(openssl rand -hex 8)" -copy_extensions copy -out "$machine/tls.crt" 2>/dev/null
) || return 2 2>/dev/null || exit 2
export RAY_USE_TLS=1 RAY_TLS_CA_CERT="$HOME/.ray/tls/ca.crt"
export RAY_TLS_SERVER_CERT="$HOME/.worldmodel/tls/tls.crt" RAY_TLS_SERVER_KEY="$HOME/.worldmodel/tls/tls.key"
