"""Forecasting: settings, network, scores, run folder and the Forecaster that joins them."""
