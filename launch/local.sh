#!/usr/bin/env bash
# Train on this machine. Every flag goes to csn_jax.train.
# A run that was killed (out of memory, crash, SIGKILL) restarts and resumes from its last checkpoint. A usage error, a
# finished run and SIGTERM end the script.
# PROCESSES=N trains with N processes that connect over the loopback interface. The bits of the result depend only on
# the total number of devices, so PROCESSES=1 with four devices equals PROCESSES=2 with two devices each.
set -uo pipefail
python=${PYTHON:-python}
processes=${PROCESSES:-}
children=()
stopping=
trap 'stopping=yes; [ ${#children[@]} -gt 0 ] && kill -TERM "${children[@]}" 2>/dev/null' TERM INT

start() {
  children=()
  if [ -z "$processes" ]; then
    "$python" -m csn_jax.train "$@" &
    children+=($!)
    return
  fi
  # On CPU a sum is cut into one piece per thread, so the number of threads must not depend on the number of processes.
  local port devices=$((processes * ${JAX_NUM_CPU_DEVICES:-1})) cores
  cores=$(nproc 2>/dev/null || echo 1)
  export PJRT_NPROC=${PJRT_NPROC:-$((devices > cores ? devices : cores))}
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 1
  for ((id = 0; id < processes; id++)); do
    # Each process takes one accelerator. On CPU, JAX_LOCAL_DEVICE_IDS has no effect.
    JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$id} \
      "$python" -m csn_jax.train --distributed="127.0.0.1:$port,$processes,$id" "$@" &
    children+=($!)
  done
}

# The status of the run: first choice an error (1 or 2) of any process, then a kill, then 143, then 0.
status_of_all() {
  local child code
  status=0
  for child in "${children[@]}"; do
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # our own trap interrupted wait: the run is saving
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
  [ -n "$stopping" ] && break
  case $status in
    134 | 137 | 139) echo "attempt $attempt ended with status $status" >&2 ;;
    *) break ;;
  esac
done
exit "$status"
