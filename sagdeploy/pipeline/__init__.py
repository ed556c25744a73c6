"""From a slide to features, and from features to a diagnosis."""
