#!/usr/bin/env bash
# Everything that needs a GPU to be proven, in one go (under 8 minutes on one GPU); without a GPU its small form runs on
# the CPU. Writes one JSON file and exits with 1 if a check fails.
#
#     tests/gpu/check.sh [RESULTS.json]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 -m tests.gpu.Check "${1:-gpu.json}"
