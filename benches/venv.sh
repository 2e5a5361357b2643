# Sourced by the scripts beside it: sets BENCH_DATA (corpora, models, results in the making) and BENCH_VENV, and makes the
# environment where it is missing or its requirements have changed.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BENCH_DATA=${BENCH_DATA:-$here/../target/bench}
export BENCH_VENV=${BENCH_VENV:-$BENCH_DATA/venv}
mkdir -p "$BENCH_DATA"
if ! cmp -s "$here/requirements.txt" "$BENCH_VENV/requirements.txt"; then
    python3 -m venv "$BENCH_VENV"
    "$BENCH_VENV/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$BENCH_VENV/requirements.txt"
fi
