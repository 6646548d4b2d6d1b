#!/usr/bin/env bash
# Train on this machine; every flag goes to csn_jax.train. A run that the machine cut short (out of memory, crash,
# SIGKILL) starts again and goes on from its last checkpoint; a mistake, a finished run and SIGTERM end it.
# PROCESSES=N trains with N processes that meet on the loopback interface, also with N=1, whose result has then the same
# bits as that of more processes with as many devices altogether.
set -uo pipefail
python=${PYTHON:-python}
processes=${PROCESSES:-}
children=()
asked=
trap 'asked=yes; [ ${#children[@]} -gt 0 ] && kill -TERM "${children[@]}" 2>/dev/null' TERM INT

start() {
  children=()
  if [ -z "$processes" ]; then
    "$python" -m csn_jax.train "$@" &
    children+=($!)
    return
  fi
  # On CPU a sum is cut into as many pieces as there are threads, so their number must not depend on that of processes.
  local port devices=$((processes * ${JAX_NUM_CPU_DEVICES:-1})) cores
  cores=$(nproc 2>/dev/null || echo 1)
  export PJRT_NPROC=${PJRT_NPROC:-$((devices > cores ? devices : cores))}
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 1
  for ((id = 0; id < processes; id++)); do
    # Of several accelerators each process takes one; on CPU the variable says nothing.
    JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$id} \
      "$python" -m csn_jax.train --distributed="127.0.0.1:$port,$processes,$id" "$@" &
    children+=($!)
  done
}

# The status of the run: that of whoever made or met a mistake, else of whoever was cut short, else 143 or 0.
status_of_all() {
  local child code
  status=0
  for child in "${children[@]}"; do
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # wait was cut short by our own trap: the run is saving
      wait "$child"
      code=$?
    done
    case "$status,$code" in
      [12],* | *,0) ;;
      *,[12] | 0,* | 143,*) status=$code ;;
    esac
  done
}

for attempt in 1 2 3; do
  start "$@"
  status_of_all
  [ -n "$asked" ] && break
  case $status in
    134 | 137 | 139) echo "attempt $attempt ended with status $status" >&2 ;;
    *) break ;;
  esac
done
exit "$status"
