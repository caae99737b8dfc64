"""The front door: the command line, the recipe, the Prefect flow and the report."""
