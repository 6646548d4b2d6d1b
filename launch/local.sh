#!/usr/bin/env bash
# Train on this machine; every flag goes to csn_jax.train. A run that the machine cut short (out of memory, crash,
# SIGKILL) starts again and goes on from its last checkpoint; a mistake, a finished run and SIGTERM end it.
set -uo pipefail
python=${PYTHON:-python}
child=
trap '[ -n "$child" ] && kill -TERM "$child"' TERM INT
for attempt in 1 2 3; do
  "$python" -m csn_jax.train "$@" &
  child=$!
  wait "$child"
  status=$?
  if kill -0 "$child" 2>/dev/null; then # wait was cut short by our own trap: the run is saving
    wait "$child"
    status=$?
  fi
  case $status in
    134 | 137 | 139) echo "attempt $attempt ended with status $status" >&2 ;;
    *) exit "$status" ;;
  esac
done
exit "$status"
