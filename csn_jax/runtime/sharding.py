"""Data parallelism over the devices of all processes: the batch is split, everything else is on every device."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Shardings(NamedTuple):
    """Placement of a batch (its first axis over the devices) and of state (whole on each)."""

    batch: NamedSharding
    state: NamedSharding
    devices: int

    def padded(self, batch_size: int) -> int:
        """The next size that divides evenly over the devices."""
        return -(-batch_size // self.devices) * self.devices

    def share(self, rows: int) -> slice:
        """Which of a batch's rows lie on this process's devices: all of them where it is the only one."""
        parts = [index[0].indices(rows)[:2] for index in self.batch.addressable_devices_indices_map((rows,)).values()]
        return slice(min(start for start, _ in parts), max(stop for _, stop in parts))


def make_shardings() -> Shardings:
    """Shardings over the devices of all processes. Axis type Auto: `make_mesh` defaults to Explicit, which refuses
    `masks[c]`."""
    devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))  # `share` is of neighbours
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()), len(devices))


def stacked(sharding: NamedSharding) -> NamedSharding:
    """The sharding of several such arrays under one more axis in front."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays on the devices of a sharding. Of what is split, each process gives its share of the rows, and of what is
    on every device, all of it."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def fetch(array: jax.Array, rows: int) -> jax.Array | np.ndarray:
    """The first rows of a batch, those on the devices of other processes too, which all must ask for."""
    if array.is_fully_addressable:
        return array[:rows]  # still on its way: nobody waits here
    return multihost_utils.process_allgather(array, tiled=True)[:rows]


def summed(counts: np.ndarray) -> np.ndarray:
    """Counts added over all processes, which all must ask for."""
    return counts if jax.process_count() == 1 else multihost_utils.process_allgather(counts).sum(axis=0)
