"""`python -m swnube_client` is the same as `swnube`."""

from swnube_client.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
