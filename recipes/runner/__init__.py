"""The command line: run and compare recipes, resume, tabulate what the runs did."""
