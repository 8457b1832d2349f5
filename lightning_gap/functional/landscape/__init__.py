"""The loss along lines through weight space."""
