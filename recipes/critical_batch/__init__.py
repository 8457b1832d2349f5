"""The critical batch size of a recipe, by branching: `lightning-gap critical-batch`."""
