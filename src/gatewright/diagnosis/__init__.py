"""Measures of how a recurrent network learns, along the time axis."""
