#!/bin/sh
# Build outhaul/order, outhaul/waybill and outhaul/operator with docker, podman or buildah: the first that works.
#   images.sh [NAME...]       order, waybill, operator; all of them without a name
# TAG=dev, BASE_IMAGE=python:3.13-slim and BUILDER=docker|podman|buildah by the environment. Where packages come from
# another index than PyPI, its variables (UV_DEFAULT_INDEX and the like) reach the build, and not the image.
set -eu
cd "$(dirname "$0")/.."

works() {
    case $1 in
        buildah) buildah --version ;;
        *) "$1" info ;; # a client without its daemon is of no use
    esac > /dev/null 2>&1
}

builder=${BUILDER:-}
if [ -z "$builder" ]; then
    for candidate in docker podman buildah; do
        if works "$candidate"; then builder=$candidate; break; fi
    done
fi
if [ -z "$builder" ]; then
    echo "make images: none of docker, podman and buildah works here; install one, or start docker's daemon" >&2
    exit 1
fi
case $builder in
    docker) set -- build -- "$@" ;;
    podman) set -- build --layers -- "$@" ;;
    # Without a user namespace or a registry at hand, as in a container: a base that is there is not asked for anew
    # (which this says; `missing` is not known to older ones), and is fetched where it is not.
    buildah) set -- build --layers --pull=false --isolation chroot -- "$@" ;;
    *) echo "make images: BUILDER=$builder is none of docker, podman, buildah" >&2; exit 2 ;;
esac

# What Kubernetes asks for as outhaul/order is docker.io/outhaul/order. To docker that is one name; the others would make it
# localhost/outhaul/order, which they still look for first: it gets both, so that neither is an older image. And they have
# to be told where the base comes from.
prefixes=outhaul
if [ "$builder" != docker ]; then
    prefixes="outhaul docker.io/outhaul"
    BASE_IMAGE=${BASE_IMAGE:-docker.io/library/python:3.13-slim}
fi

arguments=
while [ "$1" != -- ]; do arguments="$arguments $1"; shift; done
shift
for name in BASE_IMAGE PIP_INDEX_URL UV_DEFAULT_INDEX UV_INDEX UV_NATIVE_TLS; do
    eval "value=\${$name:-}"
    # By name alone, so that credentials in an index's URL show in no list of processes.
    [ -z "$value" ] || { export "${name?}"; arguments="$arguments --build-arg $name"; }
done
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
[ $# -gt 0 ] || set -- order waybill operator
for name; do
    case $name in
        order | waybill) file=functions/$name/Dockerfile ;;
        operator) file=operator/Dockerfile ;;
        *) echo "make images: no image '$name': order, waybill or operator" >&2; exit 2 ;;
    esac
    # shellcheck disable=SC2046,SC2086 # words on purpose: none of them holds a space
    DOCKER_BUILDKIT=1 "$builder" $arguments --build-arg "REVISION=$revision" \
        $(printf -- "--tag %s/$name:${TAG:-dev} " $prefixes) --file "$file" .
done
