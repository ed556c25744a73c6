"""What teaches attention where to look: annotations, cells, and the weights of Eq. 3."""
