# Sourced by the scripts beside it, from the root of the clone.
# make_venv EXTRA: a virtual environment in .venv with the package and its extra, activated.

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "qsub_py needs Python 3.10 or later; set PYTHON=/path/to/python3" >&2
  return 1
}

create_venv() {
  local python
  python=$(find_python)
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "$python lacks the venv module: apt install python3-venv, or set PYTHON to another one" >&2
    return 1
  fi
  rm -rf .venv
  "$python" -m venv .venv
}

make_venv() {
  local extra=$1 stamp wanted
  # A clone that was moved, or whose Python is gone, has a .venv that does not run.
  .venv/bin/python -c '' 2>/dev/null && [ -f .venv/bin/activate ] || create_venv
  grep -qF "$PWD/.venv" .venv/bin/activate || create_venv
  export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
  unset PYTHONHOME PYTHONPATH
  stamp=.venv/installed-$extra
  wanted=$(cat setup.cfg pyproject.toml | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python -m pip install -q ".[$extra]"
    echo "$wanted" > "$stamp"
  fi
  # pip builds in build/ and would keep files that were deleted from the sources.
  rm -rf build qsub_py.egg-info
  python -m pip install -q --no-deps --force-reinstall .
  rm -rf build qsub_py.egg-info
}
