"""Slides as OpenSlide reads them: pixels, tissue, tiles, and painted slides for tests."""
