"""From a table to series on a regular time grid, scaled and cut into windows."""
