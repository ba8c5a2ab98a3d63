#!/bin/sh
# Makes the .env of docker-compose.yml: a world and new secrets. `test -e .env || (umask 077; sh deploy/make-env.sh [WORLD] > .env)`
# Keep it: without the secrets of the first start nobody gets at the data again.
set -eu

secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
while IFS= read -r line; do
    name=${line%%=*}
    case $line in
        WORLD=*) printf 'WORLD=%s\n' "${1:-live}" ;;
        PUBLIC_URL=*) printf '%s\n' "$line" ;;
        KAFKA_CLUSTER_ID=*) printf '%s=%s\n' "$name" "$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=\n')" ;;
        [A-Z]*=*) printf '%s=%s\n' "$name" "$(secret)" ;;
        *) ;;
    esac
done <"$here/.env.example"
