"""Pictures: masks, neighbour sheets, maps."""
