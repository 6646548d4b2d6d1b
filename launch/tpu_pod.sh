#!/usr/bin/env bash
# Train on all hosts of a TPU pod slice, one process per host. Every flag goes to csn_jax.train.
#   TPU_NAME=pod ZONE=us-central2-b launch/tpu_pod.sh --config=configs/table.py --config.data.path=/shared/products.csv \
#     --workdir=/shared/runs/products
# Ctrl-C does not stop the hosts. STOP=yes launch/tpu_pod.sh sends them SIGTERM: they save and end.
set -euo pipefail
: "${TPU_NAME:?the name of the TPU VM}" "${ZONE:?its zone}"
on_all() { gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"; }
if [ -n "${STOP:-}" ]; then
  on_all "pgrep -f '[c]sn_jax.train --distributed' | xargs -r kill -TERM"
  exit
fi
flags=
[ $# -eq 0 ] || flags=$(printf ' %q' "$@")
on_all "cd ${DIRECTORY:-.} && exec ${PYTHON:-python3} -m csn_jax.train --distributed=auto$flags"
