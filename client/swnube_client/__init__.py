"""The command-line client of SWNube: `swnube convert *.wav --to opus`. It knows the service by its public API alone."""

__version__ = "0.1.0"
