"""Sluice against its targets and peers: `python -m bench.NAME [--quick]`. Results stand in bench/README.md."""
