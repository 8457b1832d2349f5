"""Networks, data sets and training regimes of the papers, ready to run."""
