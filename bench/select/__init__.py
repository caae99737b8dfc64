"""What select promises: `python -m bench.select [--quick] [--only NAME]`. One module of this folder for each goal."""
