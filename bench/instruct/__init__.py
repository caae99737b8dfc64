"""What instruct promises: whether what it writes is true, what its gates catch, and how fast its endpoint is asked.

`python -m bench.instruct [--quick] [--only NAME]`. One module of this folder for each.
"""
