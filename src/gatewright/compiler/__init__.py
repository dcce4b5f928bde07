"""From a cell's equations to a graph: the language a cell is written in, and the graph it becomes."""
