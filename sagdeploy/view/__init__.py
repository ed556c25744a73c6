"""The viewer: results on their slides, in a browser on this machine."""
