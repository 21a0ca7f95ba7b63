# shellcheck shell=bash
# Packs a folder as a one-layer container image, with tar and sha256sum only:
# sourced by the scripts that make images. The archive is an OCI layout and a
# `docker save` archive at once, so every loader takes it. The same content
# gives the same bytes: names are sorted, times are zero, nobody's user name
# gets in.

fail() { printf '%s\n' "${0##*/}: $*" >&2; exit 1; }

# Makes the folders WORK, removed at exit, and ROOTFS in it.
begin_image() {
    umask 022 # modes in the image follow from here, not from the caller
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    ROOTFS=$WORK/rootfs
    mkdir -p "$ROOTFS" "$WORK/out/blobs/sha256"
}

# Copies a binary to the same path in the image, with the libraries and the
# loader that ldd names for it; a static binary has none.
copy_binary() { # PATH
    local file
    [[ -x $1 ]] || fail "$1 is not on this machine; deploy/prepare installs it"
    { printf '%s\n' "$1"; ldd "$1" 2>/dev/null | awk '$2 == "=>" { print $3; next } $1 ~ /^\// { print $1 }'; } |
        while read -r file; do
            install -D -m "$(stat -L -c %a "$file")" "$file" "$ROOTFS/$file"
        done
}

# A static busybox as /bin/busybox, with a link for every applet.
copy_busybox() {
    local busybox=/bin/busybox applet
    [[ -x $busybox ]] || fail "$busybox is not on this machine; deploy/prepare installs it"
    ! ldd "$busybox" >/dev/null 2>&1 || fail "$busybox is not static; deploy/prepare installs one that is"
    install -D -m 755 "$busybox" "$ROOTFS/bin/busybox"
    for applet in $("$busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$ROOTFS/bin/$applet"
    done
}

# The few files of /etc that a C library looks at.
write_etc() { # EXTRA_PASSWD_LINE EXTRA_GROUP_LINE
    mkdir -p "$ROOTFS/etc"
    printf '%s\n' root:x:0:0:root:/root:/bin/sh ${1:+"$1"} nobody:x:65534:65534:nobody:/nonexistent:/bin/false >"$ROOTFS/etc/passwd"
    printf '%s\n' root:x:0: ${2:+"$2"} nogroup:x:65534: >"$ROOTFS/etc/group"
    printf 'hosts: files dns\n' >"$ROOTFS/etc/nsswitch.conf"
    mkdir -p "$ROOTFS/root" "$ROOTFS/tmp"
    chmod 700 "$ROOTFS/root"
    chmod 1777 "$ROOTFS/tmp"
}

sorted_tar() { tar --format=gnu --sort=name --mtime=@0 --numeric-owner "$@"; }

# Moves a file among the blobs and prints its digest, without the algorithm.
add_blob() { # FILE
    local digest
    digest=$(sha256sum "$1")
    digest=${digest%% *}
    mv "$1" "$WORK/out/blobs/sha256/$digest"
    printf '%s\n' "$digest"
}

blob_size() { stat -c %s "$WORK/out/blobs/sha256/$1"; }

# The architecture in Go's words, which images use.
architecture() {
    case $(dpkg --print-architecture) in
    armhf) printf '"architecture":"arm","variant":"v7"' ;;
    i386) printf '"architecture":"386"' ;;
    *) printf '"architecture":"%s"' "$(dpkg --print-architecture)" ;;
    esac
}

# Packs ROOTFS and writes the archive. CONFIG is the inside of the image's
# "config" object; OWNED is a folder of ROOTFS that belongs to OWNER.
end_image() { # OUT NAME VERSION CONFIG [OWNED OWNER]
    local out=$1 name=$2 version=$3 config=$4 owned=${5:-} owner=${6:-0} layer manifest tag entries=()
    find "$ROOTFS" -type d ! -path "$ROOTFS/root" ! -path "$ROOTFS/tmp" -exec chmod 755 {} +
    if [[ -n $owned ]]; then
        sorted_tar --owner=0 --group=0 --exclude="./$owned" -cf "$WORK/layer" -C "$ROOTFS" .
        sorted_tar --owner="$owner" --group="$owner" -rf "$WORK/layer" -C "$ROOTFS" "./$owned"
    else
        sorted_tar --owner=0 --group=0 -cf "$WORK/layer" -C "$ROOTFS" .
    fi
    layer=$(add_blob "$WORK/layer")
    printf '{"created":"1970-01-01T00:00:00Z",%s,"os":"linux","config":{%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"%s"}]}' \
        "$(architecture)" "$config" "$layer" "deploy/${0##*/}" >"$WORK/config"
    config=$(add_blob "$WORK/config")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%d}]}' \
        "$config" "$(blob_size "$config")" "$layer" "$(blob_size "$layer")" >"$WORK/manifest"
    manifest=$(add_blob "$WORK/manifest")

    for tag in latest "$version"; do
        entries+=("$(printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d,"annotations":{"io.containerd.image.name":"docker.io/library/%s:%s","org.opencontainers.image.ref.name":"%s"}}' \
            "$manifest" "$(blob_size "$manifest")" "$name" "$tag" "$tag")")
    done
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' "${entries[@]}" >"$WORK/out/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$WORK/out/oci-layout"
    printf '[{"Config":"blobs/sha256/%s","RepoTags":["%s:latest","%s:%s"],"Layers":["blobs/sha256/%s"]}]' \
        "$config" "$name" "$name" "$version" "$layer" >"$WORK/out/manifest.json"
    chmod -R u=rwX,go=rX "$WORK/out"
    # Through a file of our own, so that a failure leaves no half archive at OUT.
    sorted_tar --owner=0 --group=0 -cf "$WORK/archive" -C "$WORK/out" blobs index.json manifest.json oci-layout
    cp "$WORK/archive" "$out.partial" && mv "$out.partial" "$out" || fail "cannot write $out"
    printf '%s:%s sha256:%s\n' "$name" "$version" "$manifest"
}

# The version of the Debian package, without epoch and Debian's revision.
package_version() { # PACKAGE
    local version
    version=$(dpkg-query --show --showformat='${Version}' "$1" 2>/dev/null) || fail "the package $1 is not installed; deploy/prepare installs it"
    version=${version#*:}
    version=${version%-*}
    printf '%s\n' "${version%%[+~]*}"
}
