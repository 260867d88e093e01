#!/bin/sh
# Installs what building weir and its local cluster needs beyond Rust, Go, Java and Maven, on Debian 12. Running it again
# is quick and changes nothing.
set -eu

packages="
  containerd runc containernetworking-plugins iptables iproute2 procps util-linux
  prometheus postgresql buildah ca-certificates busybox-static
  gcc g++ libc6-dev make mold cmake pkg-config perl git
  python3 python3-venv"

missing=""
for package in $packages; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
  # The cluster runs its own container runtime and database; the machine need not start any.
  blocker=/usr/sbin/policy-rc.d
  if [ ! -e "$blocker" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$blocker"
    chmod +x "$blocker"
    trap 'rm -f "$blocker"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing
fi

for tool in cargo go java mvn; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: install Rust 1.95, Go 1.25, Java 17 and Maven first" >&2; exit 1; }
done

# Debian 12 has no package of just.
command -v just >/dev/null || cargo install --locked --quiet just
