#!/usr/bin/env bash
# Makes the Qdrant image that compose.yaml names without pulling it:
#
#   docker/import-image.sh
#
# The image holds the binary from fetch-qdrant.sh, bash (for the health check) and the shared
# libraries of both, taken from this machine. It has no dashboard. An image that is already there
# is left alone.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
image=$(sed -n 's/^ *image: *\(qdrant\/qdrant:[^ ]*\)$/\1/p' "$here/compose.yaml")

if docker image inspect "$image" >/dev/null 2>&1; then
    echo "import-image: $image is already there."
    exit
fi

binary=$("$here/fetch-qdrant.sh")
version=$("$binary" --version)
if [[ $image != "qdrant/qdrant:v${version#qdrant }" ]]; then
    echo "import-image: compose.yaml names $image, but fetch-qdrant.sh gets $version." >&2
    exit 1
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"

install -D "$binary" "$root/qdrant/qdrant"
install -D "$(command -v bash)" "$root/bin/bash"
# The paths in ldd's lines "libc.so.6 => /lib/.../libc.so.6 (0x...)" and "/lib64/ld-... (0x...)".
ldd "$binary" "$root/bin/bash" | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
    install -D "$library" "$root$library"
done
mkdir -p "$root/tmp" "$root/var/tmp"
chmod 1777 "$root/tmp" "$root/var/tmp"

tar -C "$root" --owner 0 --group 0 --numeric-owner -c . | docker import \
    --message "made by import-image.sh of p4r-qdrant, not the official image" \
    --change 'ENV PATH=/bin TZ=Etc/UTC RUN_MODE=production' \
    --change 'WORKDIR /qdrant' \
    --change 'EXPOSE 6333' \
    --change 'EXPOSE 6334' \
    --change 'CMD ["./qdrant"]' \
    - "$image" >/dev/null
echo "import-image: made $image."
