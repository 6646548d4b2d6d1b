"""What people look at: masks, neighbour sheets, maps."""
