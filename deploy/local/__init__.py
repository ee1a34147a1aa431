"""Runs the whole service on one machine: what `make run` starts."""
