"""Train: steps that name which parts learn at which rate, a plain loop, and its place on Ray Train."""
