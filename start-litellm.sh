#!/usr/bin/env bash
# From a bare machine to a running gateway: a table of contents. Every step can be run twice.
#   ./start-litellm.sh [lm up options]      set up what is missing, then start the gateway
#   ./start-litellm.sh --setup-only [--dev] only make .venv (with --dev: what tests and linters need too)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "  → $2"; exit 4; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "Python 3.10 or newer was not found" "install it (Debian: apt-get install python3 python3-venv; macOS: brew install python)"
}

make_venv() {
  [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null && return
  local python
  python=$(find_python)
  say "[1/3] Making .venv with $("$python" --version) …"
  "$python" -m venv --clear .venv >/dev/null || fail "the virtual environment could not be made" "install Python's venv module (Debian: apt-get install python3-venv)"
}

# The stamp holds what was installed: a changed lock, or a moved folder, installs again.
install_locked() {
  local lock=$1 wanted
  wanted="$(cksum <"$lock") $(cksum <pyproject.toml) $PWD"
  [ "$(cat .venv/lmstack-stamp 2>/dev/null)" = "$wanted" ] && return
  say "[2/3] Installing locked packages from $lock (some minutes, once) …"
  local quiet=()
  [ -t 2 ] || quiet=(--progress-bar off)
  .venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes ${quiet[@]+"${quiet[@]}"} -r "$lock" 2>&1 | progress ||
    fail "the packages could not be installed" "read the lines above; is the network up? then run this again"
  .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable . ||
    fail "lmstack itself could not be installed" "read the lines above"
  # Bytecode now, so that the first start does not pay for it.
  .venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
  printf '%s' "$wanted" >.venv/lmstack-stamp
}

# pip prints a screenful per package; a count is enough unless something goes wrong.
progress() {
  awk '/^(Collecting|Downloading)/ { if ($1 == "Collecting") n++; if (n % 20 == 0 && n != m) { m = n; print "      " n " packages …"; fflush() } next }
       /^Installing collected/ { print "      installing …"; fflush(); next }
       /ERROR|error|WARNING: (Retry|Connection)/ { print "      " $0; fflush() }' >&2
}

copy_env() {
  [ -e .env ] && return
  say "[3/3] Copying .env.example to .env (mode 600): put your provider keys there."
  (umask 077 && cp .env.example .env)
}

main() {
  local setup_only="" lock=requirements/runtime.txt
  while :; do
    case "${1:-}" in
      --setup-only) setup_only=yes ;;
      --dev) lock=requirements/dev.txt ;;
      *) break ;;
    esac
    shift
  done
  # What was installed for development satisfies a plain start too.
  [ -e .venv/lmstack-dev ] && lock=requirements/dev.txt
  make_venv
  install_locked "$lock"
  [ "$lock" = requirements/dev.txt ] && touch .venv/lmstack-dev
  [ -n "$setup_only" ] && return
  case " $* " in
    *" --help "* | *" -h "* | *" --dry-run "*) ;; # these change nothing
    *) copy_env ;;
  esac
  exec .venv/bin/lm up "$@"
}

main "$@"
