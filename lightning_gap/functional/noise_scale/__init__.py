"""The noise of the gradient, and the batch size beyond which larger batches stop paying."""
