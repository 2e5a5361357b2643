# The scripts in this directory source this file. It sets BENCH_DATA, the directory of corpora,
# models and outputs, and BENCH_VENV, the Python environment, which it makes if it does not exist or
# if its requirements have changed.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BENCH_DATA=${BENCH_DATA:-$here/../target/bench}
export BENCH_VENV=${BENCH_VENV:-$BENCH_DATA/venv}
mkdir -p "$BENCH_DATA"
requirements=$here/requirements.txt
if ! cmp -s "$requirements" "$BENCH_VENV/requirements.txt"; then
    python3 -m venv "$BENCH_VENV"
    "$BENCH_VENV/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$BENCH_VENV/requirements.txt"
fi
