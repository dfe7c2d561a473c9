# Sourced by the tools: makes an environment of locked, hash-checked packages for this checkout.
#
#   environment NAME REQUIREMENTS...    leaves its python in $python
#
# With uv where it is present, else with venv and pip. Nothing is done when nothing has changed.

# What is started again and again must not be compiled each time, whatever the caller has set.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*" >&2; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in "${ACCRUE_PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        if [ -n "$candidate" ] && fits "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    say "No Python 3.10 to 3.13 was found; found $(python3 --version 2>&1 || echo none)."
    say "Install one, or name it: ACCRUE_PYTHON=/path/to/python3.12 $0"
    return 1
}

install_with_uv() {
    uv venv --quiet --clear --python "$base" "$folder" &&
        uv pip install --quiet --python "$folder/bin/python" --require-hashes "${lists[@]}" &&
        uv pip install --quiet --python "$folder/bin/python" --no-deps --no-build-isolation -e .
}

install_with_pip() {
    local pip=("$folder/bin/python" -m pip -qq --disable-pip-version-check)
    rm -rf "$folder"
    if ! "$base" -m venv "$folder" 2>/dev/null; then
        say "'$base -m venv' fails here; on Debian and Ubuntu: apt-get install python3-venv"
        return 1
    fi
    "${pip[@]}" install --no-compile --require-hashes "${lists[@]}" &&
        "${pip[@]}" install --no-deps --no-build-isolation -e .
}

environment() {
    local name=$1 folder base lists=() list stamp started=$SECONDS
    shift
    folder=${ACCRUE_ENVIRONMENTS:-$PWD}/.venv-$name
    base=$(find_python) || return 1
    for list in "$@" build; do lists+=(-r "requirements/$list.txt"); done
    stamp=$(cat pyproject.toml $(printf 'requirements/%s.txt ' "$@" build) | cksum)-$base-$PWD
    python=$folder/bin/python
    if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]; then
        say "Installing locked packages into $(basename "$folder") ..."
        if command -v uv >/dev/null && install_with_uv; then
            :
        elif ! install_with_pip; then
            say "The packages could not be installed; nothing else was changed. Is there a network?"
            return 1
        fi
        printf '%s' "$stamp" >"$folder/stamp"
        say "Installed in $((SECONDS - started)) s."
    fi
}

# from_system PACKAGES WHAT [PROGRAM]    sees to it that the program of that name (default: of the
#                                        package's) is there, for WHAT
#
# It is installed from the system's packages where that needs no password.
from_system() {
    local package=$1 what=$2 program=${3:-$1} packages root=()
    if [ -x "$(command -v "$program" || echo "/usr/sbin/$program")" ]; then return; fi
    read -ra packages <<<"$package"
    if [ "$(id -u)" != 0 ]; then root=(sudo -n); fi
    if command -v apt-get >/dev/null && "${root[@]}" true 2>/dev/null; then
        say "Installing $package from the system's packages ..."
        local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive
            apt-get -qq install -y --no-install-recommends "${packages[@]}")
        if "${install[@]}" >/dev/null 2>&1; then return; fi
        if "${root[@]}" apt-get -qq update >/dev/null && "${install[@]}" >/dev/null; then return; fi
    fi
    say "Not here, and cannot be installed from here: $package, for $what; type: sudo apt-get install $package"
    return 1
}
