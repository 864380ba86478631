#!/bin/sh
# A session with an exec-server, with nothing but curl:  sh curl.sh http://HOST:PORT TOKEN_FILE
set -eu
server=$1

# The token comes from a file of headers, for argv is seen by all users of a host.
headers=$(mktemp)  # mode 600
trap 'rm -f "$headers"' EXIT
printf 'Authorization: Bearer %s\n' "$(cat "$2")" > "$headers"
ask() {
    curl --silent --show-error --fail-with-body --header "@$headers" "$@"
}

# A process; its PID is in the answer, and where it is talked to in Location.
pid=$(ask -X POST "$server/popen" | sed 's/.*"pid": *"\([0-9a-f]*\)".*/\1/')
there=$server/exec/$pid

# Source, then data, then what comes back.
ask --data-binary 'channel.send(channel.receive() + 1)' "$there" > /dev/null
ask -H 'Content-Type: application/json' -d 1 "$there" > /dev/null
echo "1 + 1 = $(ask "$there?wait=10")"

# Safe on a bad connection: numbered requests run once, and a message stays until `after` says that it is here.
source='for n in channel: channel.send(n * n)'
for try in 1 2 3; do
    ask -H 'Content-Type: text/x-python' --data-binary "$source" "$there?seq=3" > /dev/null
    ask -H 'Content-Type: application/json' -d 12 "$there?seq=4" > /dev/null
done
for try in 1 2 3; do
    echo "12 * 12 = $(ask "$there?after=2&wait=10")"
done

ask -X DELETE "$there" > /dev/null
