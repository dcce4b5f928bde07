"""One measure a file: its formula, its source, what it costs and what may be concluded from it."""
