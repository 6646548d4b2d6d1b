"""Data parallelism over all local devices: the batch is split, everything else is on every device."""

from typing import NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Shardings(NamedTuple):
    """Placement of a batch (its first axis over the devices) and of state (whole on each)."""

    batch: NamedSharding
    state: NamedSharding
    devices: int

    def padded(self, batch_size: int) -> int:
        """The next size that divides evenly over the devices."""
        return -(-batch_size // self.devices) * self.devices


def make_shardings() -> Shardings:
    """Shardings over all local devices. Axis type Auto: `make_mesh` defaults to Explicit, which refuses `masks[c]`."""
    devices = jax.local_devices()
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()), len(devices))
