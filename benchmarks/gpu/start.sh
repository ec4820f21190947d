#!/usr/bin/env bash
# From a bare copy of the tree, with no repository and no network, to measurements.
# Arguments are those of benchmarks.gpu; --commit has to say which commit was copied.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
"$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
exec "$python" -m benchmarks.gpu "$@"
