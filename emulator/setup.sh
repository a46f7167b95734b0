#!/usr/bin/env bash
# Sets up what `idp-deploy simulate --emulate` needs in a private folder: QEMU's user mode and a small arm64 Debian from
# packages.lock, the arm64 runtimes from wheels.lock, and the counting plugin built here. Nothing is installed on the
# system, root is not needed, and every file is held to its SHA-256. It needs apt, dpkg-deb, pip and a C compiler on
# x86-64 Linux.
#
#   emulator/setup.sh            set up, or do nothing where it is up to date
#   emulator/setup.sh --relock   write packages.lock anew from what the package mirror offers today
#
# IDP_DEPLOY_EMULATOR names the folder (default ~/.cache/idp-deploy/emulator), PYTHON the interpreter whose pip is used.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=${IDP_DEPLOY_EMULATOR:-${XDG_CACHE_HOME:-$HOME/.cache}/idp-deploy/emulator}
python=${PYTHON:-python3}
declare -A wanted=([amd64]="qemu-user" [arm64]="python3.11 libstdc++6 libgomp1")

fail() {
  echo "emulator: $1" >&2
  exit 1
}

for tool in apt-get dpkg-deb sha256sum cc "$python"; do
  command -v "$tool" >/dev/null || fail "needs $tool"
done
[ "$(uname -sm)" = "Linux x86_64" ] || fail "needs Linux on x86-64, this is $(uname -sm)"

digest=$(cd "$here" && cat packages.lock wheels.lock count.c decode.h plugin_api.h guest.py setup.sh | sha256sum | cut -c1-64)
if [ "${1:-}" != --relock ] && [ "$(cat "$home/stamp" 2>/dev/null)" = "$digest" ]; then
  echo "emulator: $home is up to date"
  exit 0
fi

mkdir -p "$(dirname "$home")"
work=$(mktemp -d "$home.XXXXXX")
trap 'rm -rf "$work"' EXIT

# apt with a state of its own: one architecture, the system's sources and keys, nothing installed.
private_apt() {
  local root=$work/apt/$1
  mkdir -p "$root"/{lists/partial,archives/partial}
  : >"$root/status"
  cat >"$root/apt.conf" <<END
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State "$root";
Dir::State::status "$root/status";
Dir::Cache "$root";
END
  export APT_CONFIG=$root/apt.conf
  apt-get update -qq || fail "apt cannot list the packages for $1"
}

if [ "${1:-}" = --relock ]; then
  for arch in amd64 arm64; do
    private_apt "$arch"
    # shellcheck disable=SC2086
    found=$(apt-get install --simulate ${wanted[$arch]} | awk '/^Inst/ { sub(/\(/, "", $3); print $2 "=" $3 }' | LC_ALL=C sort)
    for package in $found; do
      sum=$(apt-cache show "$package" | awk '/^SHA256:/ { print $2; exit }')
      echo "$arch $package $sum"
    done
  done >"$work/packages.lock"
  mv "$work/packages.lock" "$here/packages.lock"
  echo "emulator: wrote $(wc -l <"$here/packages.lock") packages to packages.lock"
  exit 0
fi

new=$work/emulator
fetch() {
  mkdir -p "$work/$1" "$new/$1"
  cd "$work/$1"
  mapfile -t packages < <(awk -v arch="$1" '$1 == arch { print $2 }' "$here/packages.lock")
  apt-get download -qq "${packages[@]}" ||
    fail "a package of packages.lock is no longer offered (it is for Debian 12): emulator/setup.sh --relock writes today's"
  while read -r _ package sum; do
    files=("${package%%=*}"_*.deb)
    echo "$sum  ${files[0]}" | sha256sum --check --quiet || fail "$package is not the locked file"
    dpkg-deb -x "${files[0]}" "$new/$1"
  done < <(awk -v arch="$1" '$1 == arch' "$here/packages.lock")
}

for arch in amd64 arm64; do
  private_apt "$arch"
  (fetch "$arch") # it changes directory
done
find "$new/amd64/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 -delete
rm -rf "$new"/{amd64,arm64}/usr/share

"$python" -m pip install -qq --no-deps --no-compile --require-hashes --only-binary :all: --python-version 3.11 \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
  --target "$new/site" --requirement "$here/wheels.lock" || fail "pip cannot get the wheels of wheels.lock"

cc -O2 -Wall -Wextra -Werror -shared -fPIC -fvisibility=hidden -o "$new/count.so" "$here/count.c"
cp "$here/guest.py" "$new/guest.py"
echo "$digest" >"$new/stamp"
rm -rf "$home"
mv "$new" "$home"
echo "emulator: ready in $home ($(du -sh "$home" | cut -f1))"
