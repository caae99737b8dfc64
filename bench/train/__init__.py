"""What training promises: `python -m bench.train [--quick] [--only NAME]`. One module of this folder for each goal."""
