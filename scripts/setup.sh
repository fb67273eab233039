#!/bin/sh
# Make a virtual environment and install this project into it: setup.sh PYTHON VENV WHAT
# Says what is missing on this machine, and how to get it.
set -eu
python=$1 venv=$2 what=$3

fail() {
    echo "setup: $*" >&2
    exit 1
}

if command -v uv >/dev/null 2>&1; then
    echo "setup: installing into $venv with uv (once, about a minute)"
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv" ||
        fail "uv found no $python: install Python 3.11 or newer, or name one: make PYTHON=3.12"
    uv pip install --quiet --python "$venv/bin/python" --editable "$what" ||
        fail "uv could not install the packages of pyproject.toml; is there a network?"
    exit 0
fi

command -v "$python" >/dev/null 2>&1 ||
    fail "$python is missing: install Python 3.11 or newer, or name one: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: install Python 3.11 or newer, or name one: make PYTHON=python3.12"
echo "setup: installing into $venv with pip (once, about a minute)"
[ -x "$venv/bin/pip" ] || "$python" -m venv --clear "$venv" ||
    fail "$python has no venv: install it (Debian: sudo apt install python3-venv), or install uv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$what" ||
    fail "pip could not install the packages of pyproject.toml; is there a network?"
