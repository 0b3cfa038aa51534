"""Speed: counted operations and measured times."""
