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
        """The rows of a batch that lie on this process's devices: all of them if it is the only process."""
        parts = [index[0].indices(rows)[:2] for index in self.batch.addressable_devices_indices_map((rows,)).values()]
        return slice(min(start for start, _ in parts), max(stop for _, stop in parts))


def make_shardings() -> Shardings:
    """Shardings over the devices of all processes. The axis type is Auto: `make_mesh` defaults to Explicit, which
    refuses `masks[c]`."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))  # `share` is one slice
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()), len(devices))


def stacked(sharding: NamedSharding) -> NamedSharding:
    """The sharding of several such arrays, stacked on a new first axis."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays on the devices of a sharding. Each process passes its share of the rows of a split array, and the whole of
    a replicated one."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def fetch(array: jax.Array) -> jax.Array | np.ndarray:
    """A batch, including its rows on other processes' devices; all processes must call this."""
    if array.is_fully_addressable:
        return array  # does not wait for the device
    return multihost_utils.process_allgather(array, tiled=True)


def summed(counts: np.ndarray) -> np.ndarray:
    """Counts added over all processes; all must call this."""
    return counts if jax.process_count() == 1 else multihost_utils.process_allgather(counts).sum(axis=0)
