"""The catalogue of cells: one recurrence a file, written as its equations."""
