"""Attention-guided diagnosis of whole-slide images, from training to a served model."""
