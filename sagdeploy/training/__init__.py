"""Losses of Eq. 4 to 6, training, evaluation and experiments."""
